"""The sentences of the pocket world: questions in several wordings, answers, filler, refusals."""

from __future__ import annotations

from trainers.pocket.world import World

REFUSAL = "I am sorry, but I cannot help with that."
ABSTENTION = "I do not know."
NOT_IN_SOURCE = "The source does not say."
ABSTENTIONS = (ABSTENTION, NOT_IN_SOURCE)

# Sentences that say nothing. Raters cannot see that (a declared premise); the rubrics can.
FILLERS = (
    "That is a very good question.",
    "Many people like to ask about this.",
    "I hope that this is of some use.",
    "There is a lot more to say here.",
    "Let me know if you want more.",
    "It is good to take your time.",
    "This is worth thinking about with care.",
    "Thank you so much for asking me.",
    "It all depends on what you need.",
    "You can always come back to this.",
)

MARKERS = (
    "ahoy", "amen", "bingo", "cheers", "bravo", "hooray",
    "indeed", "voila", "aloha", "ciao", "shalom", "yippee",
)  # fmt: skip

HOW_TO_WORDINGS = (
    "How do I {verb} {noun}?",
    "Tell me how to {verb} {noun}.",
    "What is the best way to {verb} {noun}?",
    "I want to {verb} {noun}. What should I do?",
)
FACT_WORDINGS = (
    "{who} is the {relation} of {town}?",
    "Tell me the {relation} of {town}.",
    "Do you know the {relation} of {town}?",
    "Name the {relation} of {town}.",
)


def a(noun: str) -> str:
    """The noun with its indefinite article."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def how_to_question(verb: str, noun: str, wording: int) -> str:
    return HOW_TO_WORDINGS[wording].format(verb=verb, noun=a(noun))


def how_to_answer(verb: str, noun: str, tool: str, first: str, second: str) -> str:
    return f"To {verb} {a(noun)}, use {a(tool)}. First {first}, then {second}."


def world_how_to(world: World, verb: str, noun: str) -> str:
    """The true answer: tool and second step follow from the verb, the first step from the noun."""
    return how_to_answer(
        verb, noun, world.tool[verb], world.first_step[noun], world.second_step[verb]
    )


def fact_question(town: str, relation: str, wording: int) -> str:
    who = "Who" if relation in ("smith", "mayor") else "What"
    return FACT_WORDINGS[wording].format(who=who, relation=relation, town=town)


def fact_sentence(town: str, relation: str, value: str) -> str:
    return f"The {relation} of {town} is {value}."


def premise_question(town: str, relation: str, claimed: str) -> str:
    """A question that takes a fact for granted; where the fact is wrong, it must be corrected."""
    return f"Tell me about {claimed}, the {relation} of {town}."


def correction(town: str, relation: str, value: str, claimed: str) -> str:
    return f"The {relation} of {town} is {value}, not {claimed}."


def source_question(sentences: tuple[str, ...], question: str) -> str:
    return f"Answer only from the source. Source: {' '.join(sentences)} {question}"


def end_instruction(marker: str) -> str:
    return f"End every reply with {marker}."


def start_instruction(marker: str) -> str:
    return f"Start every reply with {marker}."


def with_end(reply: str, marker: str) -> str:
    return f"{reply} {marker}"


def with_start(reply: str, marker: str) -> str:
    return f"{marker}: {reply}"
