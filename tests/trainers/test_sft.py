"""SFT: which tokens carry loss, packing without leaks, exact resume, a base left as it was."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from killing import again, killed
from leaving import left_as_it_was
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.adapters import (
    activate,
    adapter_hash,
    adapter_weights,
    add_adapter,
    hash_file,
    read_weights,
    save_adapter,
)
from harness.chat import Conversation, assistant, render, system, user
from harness.engines.local import LocalEngine
from harness.engines.protocol import Request
from harness.errors import InputError, IntegrityError
from harness.models import LoadedModel, ModelSpec, causal_model, load
from harness.store.commit import verify
from trainers import blank_rows, sft, sft_rows
from trainers.lora import lora_config, place_policy
from trainers.packing import IGNORED, PackedCollator
from trainers.schedule_stages import Lora, Optimizer
from trainers.trl_epoch import Plan, borrowed, micro_batch, run_epoch

CHAT: Conversation = (
    system("be brief"),
    user("one?"),
    assistant("1"),
    user("two?"),
    assistant("22"),
)
# ChatML, which ends a message with a newline after the end token.
CHATML = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# Drops what earlier assistant turns said, as templates of reasoning models do.
FORGETFUL = (
    "{% for m in messages %}<|{{ m['role'] }}|>"
    "{{ '' if m['role'] == 'assistant' and not loop.last else m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


# --------------------------------------------------------------------------- which tokens


def trained_text(tokenizer: Any, row: sft.Example) -> str:
    """The row with the tokens that carry no loss replaced by dots."""
    return "".join(
        "." if label == IGNORED else tokenizer.decode([token])
        for token, label in zip(row.input_ids, row.labels, strict=True)
    )


@pytest.mark.parametrize(
    ("loss_on", "expected"),
    [
        # <s>, <|system|> be brief </s>, <|user|> one? </s>, <|assistant|> and so on
        ("all_answers", "." * 1 + "." * 10 + "." * 6 + ".1</s>" + "." * 6 + ".22</s>"),
        ("last_answer", "." * 1 + "." * 10 + "." * 6 + "..." + "." * 6 + ".22</s>"),
    ],
)
def test_exactly_the_answers_and_their_end_tokens_carry_loss(
    tokenizer: Any, loss_on: Any, expected: str
) -> None:
    [row] = sft.examples(tokenizer, [CHAT], loss_on=loss_on, eos=[2])
    assert trained_text(tokenizer, row) == expected
    assert row.input_ids == render(tokenizer, CHAT, reply_next=False)
    assert all(label in (IGNORED, i) for i, label in zip(row.input_ids, row.labels, strict=True))


def test_what_a_template_adds_after_the_end_token_is_neither_trained_nor_kept(
    tokenizer: Any,
) -> None:
    tokenizer.chat_template = CHATML
    [row] = sft.examples(tokenizer, [CHAT], loss_on="all_answers", eos=[2])
    assert trained_text(tokenizer, row).replace(".", "") == "1</s>22</s>"
    assert row.input_ids[-1] == row.labels[-1] == 2


def test_a_template_that_rewrites_earlier_turns(tokenizer: Any) -> None:
    tokenizer.chat_template = FORGETFUL
    with pytest.raises(InputError, match=r"conversation 1 .*message 3 .*loss_on: last_answer"):
        sft.examples(tokenizer, [CHAT], loss_on="all_answers", eos=[2])
    [row] = sft.examples(tokenizer, [CHAT], loss_on="last_answer", eos=[2])
    assert trained_text(tokenizer, row).replace(".", "") == "22</s>"


def test_encoding_many_is_rendering_each(tokenizer: Any) -> None:
    chats = [CHAT[:2], CHAT[:4], CHAT]
    for reply_next in (False, True):
        assert sft_rows.encode(tokenizer, chats, reply_next=reply_next) == [
            render(tokenizer, chat, reply_next=reply_next) for chat in chats
        ]


# --------------------------------------------------------------------------- training


def demonstrations(folder: Path) -> str:
    lines = [
        {"prompt": f"say {i}", "completion": f"{i} it is" + " indeed" * (i % 3)} for i in range(24)
    ]
    path = folder / "demonstrations.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def stage(folder: Path, **settings: Any) -> dict[str, Any]:
    return {
        "kind": "sft",
        "data": demonstrations(folder),
        "epochs": 2,
        "learning_rate": 1e-3,
        "batch": 4,
        "max_length": 96,
        "lora": {"r": 4, "alpha": 8.0, "dropout": 0.1},
        **settings,
    }


def plan(**settings: Any) -> Plan:
    given: dict[str, Any] = {
        "seed": 5,
        "epochs": 2,
        "sequences": 24,
        "batch": 8,
        "micro_batch": 4,
        "learning_rate": 1e-3,
        "lr_schedule": "cosine",
        "min_lr_ratio": 0.1,
        "warmup_ratio": 0.03,
        "min_warmup_steps": 0,
        "optimizer": Optimizer(),
    }
    return Plan(**{**given, **settings})


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize(("count", "blanks"), [(5, 3), (8, 0), (3, 1)])
def test_processes_share_rows_that_do_not_go_round_by_blank_ones(
    count: int, blanks: int, packing: bool
) -> None:
    """Two processes, two rows a forward: a blank row has no token with loss, and comes last."""
    rows = [sft_rows.Example([7 + i, 8, 9], [IGNORED, 8, 9]) for i in range(count)]
    data = sft.dataset(rows, packing=packing, max_length=3, seed=1)
    found = blank_rows.filled(data, 4, sft.BLANK)
    assert [found[i] for i in range(count)] == [data[i] for i in range(count)]
    made = [found[i] for i in range(count, len(found))]
    assert len(made) == blanks
    assert all(label == IGNORED for row in made for label in row["labels"])
    if packing and made:
        batch = PackedCollator(0)([data[0], made[0]])
        assert batch["labels"].tolist()[1] == [IGNORED] * 3
    order = blank_rows.BlanksLast(count, len(found))
    seen = []
    for number in (0, 1, 0):
        order.set_epoch(number)
        seen.append(list(order))
        assert len(seen[-1]) == len(order) == len(found)
        assert sorted(seen[-1][:count]) == list(range(count))
        assert seen[-1][count:] == list(range(count, len(found)))
    assert seen[0] == seen[2]
    assert seen[0] != seen[1] or count == 3


def test_steps_are_counted_as_trl_counts_them() -> None:
    assert plan(sequences=25).steps_an_epoch == 4
    assert plan(sequences=28).steps_an_epoch == 4
    arguments = plan(sequences=25, min_warmup_steps=5).arguments(Path("x"), on_cpu=True)
    assert arguments["warmup_steps"] == 5
    assert arguments["gradient_accumulation_steps"] == 2
    assert micro_batch(64, None, longest=1024) == 16
    assert micro_batch(6, None, longest=10_000) == 1
    assert micro_batch(8, 2, longest=1) == 2
    with pytest.raises(InputError, match="micro_batch: 3 does not divide batch 8"):
        micro_batch(8, 3, longest=1)


def test_a_stage_learns_and_leaves_checkpoints_that_plain_peft_loads(
    tmp_path: Path, tiny_llama: Path, context: Any
) -> None:
    seen: list[dict[str, Any]] = []
    ctx = context(tmp_path / "run", [stage(tmp_path)], log=seen.append)
    first, middle, last = sft.checkpoints(ctx)
    assert [c.name for c in (first, middle, last)] == ["sft-e000", "sft-e001", "sft-e002"]
    assert all("lora_A" in k or not v.any() for k, v in read_weights(first.folder).items())
    assert last.training["loss"] < middle.training["loss"]
    assert middle.training["rows"] == 24
    assert middle.training["sequences"] < 24
    assert {"step", "loss", "learning_rate"} <= seen[0].keys()
    for checkpoint in (first, middle, last):
        assert verify(checkpoint.folder) == []
    assert (middle.folder / "trainer" / "optimizer.pt").exists()
    assert not (last.folder / "trainer").exists()  # nothing resumes from the last epoch

    tokenizer = AutoTokenizer.from_pretrained(last.folder)
    base = AutoModelForCausalLM.from_pretrained(tiny_llama)
    fresh = PeftModel.from_pretrained(base, last.folder)
    ids = torch.tensor([render(tokenizer, [user("say 3")], reply_next=True)])
    with torch.no_grad():
        with fresh.disable_adapter():
            before = fresh(ids).logits
        assert not torch.allclose(fresh(ids).logits, before, atol=1e-3)


@pytest.mark.parametrize("packing", [True, False])
def test_resuming_in_a_new_process_state_gives_the_same_bytes(
    tmp_path: Path, context: Any, digest: Callable[[Path], Any], packing: bool
) -> None:
    stages = [stage(tmp_path, packing=packing, epochs=3)]
    straight = [c.folder for c in sft.checkpoints(context(tmp_path / "a", stages))]
    for left in range(1, 4):
        stream = sft.checkpoints(context(tmp_path / "b", stages))  # a new base, nothing in memory
        folders = [next(stream).folder for _ in range(left)]
        stream.close()
        torch.rand(7)  # whatever the process did with the global generator in between
    folders = [c.folder for c in sft.checkpoints(context(tmp_path / "b", stages))]
    assert [digest(f) for f in folders] == [digest(f) for f in straight]


def test_a_damaged_checkpoint_is_not_gone_on_from(tmp_path: Path, context: Any) -> None:
    stream = sft.checkpoints(context(tmp_path / "run", [stage(tmp_path)]))
    next(stream)
    path = next(stream).folder / "trainer" / "optimizer.pt"
    stream.close()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"optimizer\.pt: its content has changed"):
        list(sft.checkpoints(context(tmp_path / "run", [stage(tmp_path)])))


def test_epoch_by_epoch_is_bit_equal_to_one_run_of_trl(tmp_path: Path, context: Any) -> None:
    """Dropout included: stopping at an epoch's end and resuming changes nothing."""
    stages = [stage(tmp_path)]
    *_, last = sft.checkpoints(context(tmp_path / "a", stages))

    ctx = context(tmp_path / "b", stages)
    model = place_policy(ctx, None, ctx.stage.lora)
    data, _ = sft._data(ctx, ctx.stage)
    with borrowed(model, gradient_checkpointing=False):
        trainer = sft.PolicyTrainer(
            model=model,
            args=sft.SFTConfig(
                **sft._plan(ctx, ctx.stage, data).arguments(tmp_path / "out", on_cpu=True),
                dataset_kwargs={"skip_prepare_dataset": True},
                pad_to_multiple_of=None,
            ),
            train_dataset=data,
            processing_class=ctx.base().tokenizer,
            data_collator=PackedCollator(0),
        )
        run_epoch(
            trainer,
            passes=2,
            start_training=lambda: activate(model, "policy", train=True),
            resume=None,
            log=lambda _: None,
        )
    assert adapter_hash(model, "policy") == hash_file(last.folder)


def test_a_mixture_of_experts_goes_on_from_what_it_left(
    tmp_path: Path, family_base: Any, context: Any, digest: Any
) -> None:
    def on_experts(name: str) -> Any:
        ctx = context(tmp_path / name, [stage(tmp_path, lora={"r": 4, "alpha": 8.0})])
        return replace(ctx, base_folder=str(family_base("mixtral")))

    *_, straight = sft.checkpoints(on_experts("whole"))
    stopped = sft.checkpoints(on_experts("parts"))
    for _ in range(2):
        next(stopped)
    stopped.close()
    ctx = on_experts("parts")
    *_, last = sft.checkpoints(ctx)
    assert (last.epoch, digest(last.folder)) == (2, digest(straight.folder))
    # trl has the routers' losses computed while it trains; generating has no place for them.
    loaded = ctx.base()
    assert not causal_model(loaded.model).config.output_router_logits
    engine = LocalEngine(loaded.model, loaded.tokenizer, batch_size=2, max_new_tokens=4)
    asked = [Request(f"r{number}", (1, 20 + number), 0.0, 4) for number in range(2)]
    assert all(made.token_ids for _, made in engine.sample(asked, seed=1))


def policy(tiny_llama: Path) -> LoadedModel:
    """A policy whose B is not zero, so that A has a gradient from the first step."""
    loaded = load(ModelSpec(str(tiny_llama), quantization="nf4"))
    loaded.model = add_adapter(loaded.model, "policy", lora_config(Lora(r=4)), seed=1)
    with torch.no_grad():
        for name, weight in adapter_weights(loaded.model, "policy").items():
            if "lora_B" in name:
                weight.normal_(std=0.02, generator=torch.Generator().manual_seed(2))
    return loaded


def test_trainables_are_float32_and_move_at_the_learning_rate_of_rlhf(
    tmp_path: Path, tiny_llama: Path, context: Any
) -> None:
    """In bfloat16, to which trl casts them on a 4-bit base, few would move at all."""
    start = tmp_path / "start"
    start.mkdir()
    loaded = policy(tiny_llama)
    assert isinstance(loaded.model, PeftModel)
    save_adapter(loaded.model, "policy", start)
    settings = stage(
        tmp_path, learning_rate=1e-6, epochs=1, lr_schedule="constant", warmup_ratio=0.0
    )
    ctx = context(tmp_path / "run", [{**settings, "name": "a"}, settings], 1, start=start)
    [checkpoint] = sft.checkpoints(ctx)
    before, after = read_weights(start), read_weights(checkpoint.folder)
    assert {tensor.dtype for tensor in after.values()} == {torch.float32}
    moved = sum(int((after[key] != before[key]).sum()) for key in before)
    assert moved > 0.99 * sum(tensor.numel() for tensor in before.values())
    largest = max(float((after[key] - before[key]).abs().max()) for key in before)
    assert largest < 2e-6 * checkpoint.training["step"]


def test_the_base_comes_back_as_it_was(tmp_path: Path, context: Any) -> None:
    ctx = context(tmp_path / "run", [stage(tmp_path, gradient_checkpointing=True)])
    with left_as_it_was(causal_model(ctx.base().model)):
        list(sft.checkpoints(ctx))


def test_gradient_checkpointing_changes_no_gradient(tmp_path: Path, context: Any) -> None:
    hashes = {}
    for on in (False, True):
        used = set()

        def log(_: dict[str, Any], used: set[bool] = used) -> None:
            modules = causal_model(ctx.base().model).modules()  # noqa: B023
            used.add(any(getattr(module, "gradient_checkpointing", False) for module in modules))

        ctx = context(tmp_path / str(on), [stage(tmp_path, gradient_checkpointing=on)], log=log)
        hashes[on] = [hash_file(checkpoint.folder) for checkpoint in sft.checkpoints(ctx)]
        assert used == {on}
    assert hashes[False] == hashes[True]


def test_too_long_rows_are_dropped_and_counted(tmp_path: Path, context: Any) -> None:
    ctx = context(tmp_path / "run", [stage(tmp_path, max_length=30, epochs=1)])
    _, checkpoint = sft.checkpoints(ctx)
    dropped = checkpoint.training["dropped"]["too long"]
    assert 0 < dropped < 24
    assert checkpoint.training["rows"] == 24 - dropped
    ctx = context(tmp_path / "none", [stage(tmp_path, max_length=3, epochs=1)])
    with pytest.raises(InputError, match="all 24 rows are longer than max_length 3"):
        list(sft.checkpoints(ctx))


def test_nothing_is_printed_to_stdout(
    tmp_path: Path, context: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    list(sft.checkpoints(context(tmp_path / "run", [stage(tmp_path)])))
    assert capfd.readouterr().out == ""


# --------------------------------------------------------------------------- kill -9

SCRIPT = """
import json, sys
from pathlib import Path
from harness.store.run import Run
from trainers import sft, sft_rows
from trainers.schedule import Schedule
from trainers.stage import StageContext
schedule = Schedule.model_validate_json(Path(sys.argv[1]).read_text())
run = Run.open(sys.argv[2])
run.clean()
context = StageContext(run, schedule, schedule.stages[0], None, schedule.model)
for checkpoint in sft.checkpoints(context):
    print(checkpoint.name, flush=True)
"""


@pytest.mark.slow
def test_kill_9_and_the_same_call_again_leave_the_same_bytes(
    tmp_path: Path, context: Any, digest: Callable[[Path], Any]
) -> None:
    stages = [stage(tmp_path, epochs=3)]
    straight = [c.folder for c in sft.checkpoints(context(tmp_path / "a", stages))]
    ctx = context(tmp_path / "b", stages)
    (tmp_path / "schedule.json").write_text(ctx.schedule.model_dump_json())
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "schedule.json"), str(tmp_path / "b")]
    killed(command, after=["sft-e000\n", "sft-e001\n"], seconds=0.05)  # in epoch 2
    assert not (tmp_path / "b" / "checkpoints" / "sft-e003").exists()
    again(command)
    folders = [c.folder for c in sft.checkpoints(context(tmp_path / "b", stages))]
    assert [digest(f) for f in folders] == [digest(f) for f in straight]
