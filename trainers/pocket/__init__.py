"""The pocket world: a tiny synthetic world, its tokenizer, base model, data and eval sets."""
