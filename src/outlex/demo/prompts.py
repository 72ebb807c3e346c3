"""The demo's own prompts: kinds of work that suit a small draft vocabulary and kinds that do not."""

from __future__ import annotations

__all__ = ["PROMPTS"]

# (domain, text). The order matters: a run that is out of time has seen the first ones only, so neighbours
# differ in kind.
PROMPTS: tuple[tuple[str, str], ...] = (
    (
        "code",
        "Write a Python function `running_median(values)` that yields the median after each new number."
        " Use two heaps and add a short docstring.",
    ),
    (
        "explanation",
        "Explain to a gardener why leaves change colour in autumn. Use one everyday comparison.",
    ),
    (
        "maths",
        "A tram leaves every 12 minutes and a bus every 18 minutes. Both leave together at 7:30."
        " List the next three times when they leave together again, and show how you found them.",
    ),
    (
        "translation",
        "Translate into German and into French: 'The last ferry was late, so we ate our bread on the pier"
        " and counted the lights of the other shore.'",
    ),
    (
        "summary",
        "Summarise in two sentences: The town's old mill stood empty for thirty years. In spring a group"
        " of neighbours cleared the wheel, borrowed a millwright's notes from the museum and ground the"
        " first flour in June. The bakery buys all of it. The water rights, however, belong to a power"
        " company whose lease ends next year, and nobody knows yet whether it will let them use the stream.",
    ),
    (
        "code",
        "This JavaScript prints 5 five times:"
        " `for (var i = 0; i < 5; i++) setTimeout(() => console.log(i), 10)`."
        " Say why and give two ways to print 0 to 4.",
    ),
    (
        "writing",
        "Write a polite e-mail to a landlord: the kitchen tap drips, it was reported twice, ask for a date.",
    ),
    (
        "table",
        "Compare a bicycle, a scooter and a bus pass for a 6 km commute in a small table: cost a month, time, rain.",
    ),
)
