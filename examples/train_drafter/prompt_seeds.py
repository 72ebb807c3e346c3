"""Seeds of prompts: openings that the target finishes itself, and templates that are filled by code.

Nothing here comes from a data set. Openings and templates name the *kinds* of task that chat models meet (questions,
word problems, code, translation, summaries, answers from a passage, free writing); the contents are the target's own
or combinations of the lists below.
"""

from __future__ import annotations

import random

__all__ = ["KINDS", "filled_template", "opening"]

# How the user's turn begins when the target writes it. An empty opening leaves everything to the target (Magpie).
_OPENINGS = {
    "free": (
        "", "", "", "Write", "Can you", "I'm", "Explain", "How", "Imagine", "Describe", "Give me", "You are", "Create",
    ),
    "question": (
        "Who", "What is", "When did", "When was", "Where is", "Which", "How many", "Why", "Who wrote", "Who plays",
    ),
    "mathematics": (
        "{name} has", "{name} buys", "{name} is", "A train", "A shop", "If", "{name} works", "{name} and {other}",
        "There are", "A farmer", "In a class of", "{name} wants to", "A recipe",
    ),
    "code": (
        "Complete this Python function:\ndef", "Complete this Python function:\nfrom typing import List\n\n\ndef",
        "Write a Python function that", "Write a Python program", "Write a function to", "What does this code do?\n",
        "Complete this Python function:\n\n\ndef {verb}_",
    ),
    "translation": (
        "Translate German to English:", "Translate German to English: Die", "Translate German to English: Der",
        "Translate German to English: In", "Translate German to English: Das", "Translate German to English: Es",
        "Translate French to English:", "Translate English to French:", "Translate English to German:",
    ),
    "summary": (
        "Summarize: ", "Summarize: The", "Summarize: A", "Summarize: (", "Summarize this article:\n",
        "Summarize: {name}",
    ),
    "passage": ("The", "{name} {surname} (born", "The {topic}", "In the", "{topic} is"),
}  # fmt: skip
KINDS = tuple(_OPENINGS)

_NAMES = (
    "Tom", "Maria", "James", "Aisha", "Chen", "Olga", "Peter", "Fatima", "David", "Sara", "Luis", "Emma", "Noah",
    "Mia", "Omar", "Julia", "Ben", "Priya", "Kofi", "Hana",
)  # fmt: skip
_SURNAMES = (
    "Miller", "Garcia", "Smith", "Okafor", "Chen", "Ivanova", "Jones", "Rossi", "Novak", "Kim", "Brown", "Silva",
    "Weber", "Ali", "Dubois", "Larsen",
)  # fmt: skip
_VERBS = (
    "count", "find", "remove", "sort", "check", "get", "sum", "is", "make", "split", "merge", "longest", "max", "min",
    "reverse", "convert", "filter", "next",
)  # fmt: skip
_THINGS = (
    "apples", "pencils", "tickets", "books", "eggs", "stamps", "coins", "boxes", "marbles", "cookies", "flowers",
    "shirts", "miles", "pages", "chairs",
)  # fmt: skip
_TOPICS = (
    "photosynthesis", "the water cycle", "black holes", "inflation", "the French Revolution", "vaccines", "chess",
    "the Silk Road", "renewable energy", "machine learning", "the human heart", "volcanoes", "jazz", "democracy",
    "the internet", "climate change", "Shakespeare", "the Roman Empire", "coffee", "football", "the Moon", "DNA",
    "electric cars", "the Great Wall of China", "bees", "the stock market", "meditation", "Mount Everest",
    "public transport", "social media", "the Olympic Games", "antibiotics", "bridges", "the piano", "remote work",
    "space travel", "gardening", "the Amazon rainforest", "time management", "cryptography", "dinosaurs",
    "world hunger", "tea", "migration of birds",
)  # fmt: skip
_REQUESTS = (
    "What is {topic}?", "Explain {topic} to a ten-year-old.", "Write a short essay about {topic}.",
    "List five facts about {topic}.", "Why is {topic} important?", "Write a poem about {topic}.",
    "Compare {topic} and {topic2}.", "Write a dialogue between two friends about {topic}.",
    "What are the advantages and disadvantages of {topic}?", "Give me an outline for a talk about {topic}.",
    "Write an email to a colleague about {topic}.", "Write a short story in which {topic} plays a part.",
    "How would you teach {topic}? Answer in steps.", "Write three quiz questions about {topic}, with answers.",
    "Pretend you are an expert on {topic}. What do most people get wrong?",
    "Draft a blog post about {topic} and {topic2}.",
    "Who discovered or invented {topic}, and when?", "Describe {topic} in three sentences.",
)  # fmt: skip
_PROBLEMS = (
    "{name} has {a} {thing} and buys {b} more. Then {name} gives {c} to {other}. How many {thing} are left?",
    "{name} sells {a} {thing} a day for ${b} each. How much money does {name} make in {c} days?",
    "A box holds {a} {thing}. How many {thing} are in {b} boxes, if {c} of them are taken out?",
    "{name} reads {a} pages on Monday, twice as many on Tuesday and {b} on Wednesday. How many pages is that in all?",
    "A car drives {a} miles an hour for {b} hours and then {c} miles more. How far does it go?",
    "{name} is {a} years old. {other} is {b} years older. How old will {other} be in {c} years?",
    "{name} earns ${a} an hour and works {b} hours a week. How much is saved in {c} weeks if half of it is spent?",
    "There are {a} {thing} on the table. {name} takes a third of them and {other} takes {b}. How many remain?",
    "What is {a} times {b}, plus {c}?",
    "A shop has {a} shelves with {b} {thing} each. {c} {thing} are sold. How many are left?",
)  # fmt: skip


def opening(kind: str, rng: random.Random) -> str:
    """How a user's turn of this kind begins."""
    return rng.choice(_OPENINGS[kind]).format(
        name=rng.choice(_NAMES),
        other=rng.choice(_NAMES),
        surname=rng.choice(_SURNAMES),
        verb=rng.choice(_VERBS),
        topic=rng.choice(_TOPICS),
    )


def filled_template(rng: random.Random) -> tuple[str, str]:
    """A kind and a whole prompt made by code: a word problem, or a request about a topic."""
    if rng.random() < 0.4:
        name, other = rng.sample(_NAMES, 2)
        text = rng.choice(_PROBLEMS).format(
            name=name,
            other=other,
            thing=rng.choice(_THINGS),
            a=rng.randint(12, 99),
            b=rng.randint(2, 12),
            c=rng.randint(2, 9),
        )
        return "mathematics", text
    topic, topic2 = rng.sample(_TOPICS, 2)
    return "free", rng.choice(_REQUESTS).format(topic=topic, topic2=topic2)
