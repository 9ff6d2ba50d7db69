"""Questions that are not arithmetic: a model that can only calculate should say so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from magistral_nb.abacus.wordings import Wordings, wordings

if TYPE_CHECKING:
    import random

_QUESTIONS = wordings(
    """What is the capital of {P}?
    Who is the president of {P}?
    Tell me a {k} about {w}.
    Write a {k} about {w} and {w}.
    Write {d} {k}s about {w}.
    Why is the {w} {j}?
    Why are {w}s {j}?
    How do I {v} a {w}?
    How does a {w} {v}?
    Explain {w}.
    Explain the {j} {w} to me.
    Can you {v} my {w}?
    Can you help me with my {w}?
    Translate {w} into {L}.
    Translate "the {w} is {j}" into {L}.
    What is a {w}?
    What is {w}?
    What does {w} mean?
    Who invented the {w}?
    Who was {P}?
    Is a {w} {j}?
    Is the {w} more {j} than the {w}?
    Do you like {w}s?
    What is your favourite {w}?
    When was the {w} built?
    When was the {w} invented?
    Where is {P}?
    Where can I find a {w}?
    Recommend a {w}.
    Name {d} {w}s.
    What happened in {Y}?
    Who won the {w} of {Y}?
    I have a {w}.
    My {w} is {j}.
    The {w} is {j} today.
    What should I {v} today?
    Summarize the {w}.
    Give me a recipe for {w}.
    How {j} is a {w}?
    How {j} is the {w} in {P}?
    Describe a {w}.
    Let us talk about {w}.
    {w}
    {w}?
    {w} {w}
    {j} {w}
    Hello!
    Hi
    Hello
    Hey there
    How are you?
    Who are you?
    What can you do?
    What are you?
    Good morning
    Thanks!
    Thank you
    Help
    Are you a {w}?
    What is your name?
    Tell me about yourself.
    Tell me a joke.
    I feel {j}.
    Write code that can {v} a {w}.
    Fix my {w}.
    What is the meaning of life?
    What is the weather in {P}?
    What time is it?
    Is {P} {j}?
    Do {w}s {v}?""",
    """What is the largest city of {P}?
    Compose a {k} on {w}.
    Why do people {v}?
    How can I {v} better?
    What do you think about {w}?
    Say something {j}.
    Who wrote the {w}?
    Which {w} is the most {j}?
    Please {v} the {w}.
    What is the difference between a {w} and a {w}?
    Tell me everything about {P}.
    I would like to {v} a {w}.
    Have you ever seen a {w}?
    Does a {w} {v}?
    What colour is a {w}?
    Good evening
    How is it going?
    Are you {j}?
    Who made you?
    Did the {w} {v} in {Y}?""",
)

_WORDS = {
    "w": wordings(
        """cat dog house tree river mountain moon star sun sky car train boat book song movie poem story letter garden
        flower apple bread cheese cake soup coffee tea water fire wind rain snow king queen prince dragon robot
        computer phone window door bridge road city village school teacher doctor friend brother mother child bird
        fish horse lion tiger elephant mouse spider planet galaxy atom energy light music dance painting museum
        castle theory language grammar history war peace love fear hope dream memory brain heart blood bone muscle
        virus vaccine guitar piano violin football tennis chess game team match ship plane engine battery lamp chair
        table bottle company market bank law election vote tax budget contract meeting email password network server
        program function variable loop list file error test democracy philosophy religion culture weather climate
        ocean island desert""",
        """wolf forest lake cloud sandwich pasta camera bicycle airport hospital nurse uncle wedding birthday volcano
        comet magnet gravity opera novel statue temple justice courage sleep kidney insect whale drum hockey rocket
        satellite mirror pillow spoon factory loan tariff keyboard browser compiler protein oxygen winter summer""",
    ),
    "j": wordings(
        """blue red green old new big small happy sad angry fast slow cold hot warm sweet strong weak rich poor young
        beautiful strange dark bright loud quiet heavy light deep high good bad funny famous important difficult""",
        """yellow gentle lazy clever huge tiny expensive cheap boring brave""",
    ),
    "v": wordings(
        """cook bake build fix open close find lose read write sing dance run walk swim fly sleep eat drink buy sell
        teach learn paint draw grow cut wash clean break start stop help love make play send""",
        """repair plant climb drive borrow travel invent whisper laugh remember""",
    ),
    "k": wordings("poem story song joke letter essay speech report", "ballad fairy-tale haiku"),
    "P": wordings(
        "France Paris Germany Berlin Italy Rome Spain China India Japan Brazil Egypt Canada London Mars Einstein",
        "Norway Vienna Peru Kenya Toronto Newton Australia",
    ),
    "L": wordings("French German Spanish Italian Latin Japanese", "Dutch Polish Greek"),
}
_SYLLABLES = tuple(a + b for a in "bdfgklmnprstv" for b in "aeio")


def elsewhere(rng: random.Random, *, seen: bool) -> str:
    """A question that has nothing to calculate in it, some with numbers all the same.

    Example:
        >>> import random
        >>> elsewhere(random.Random(1), seen=False)  # doctest: +SKIP
        'What colour is a whale?'
    """
    text = rng.choice(_pick(_QUESTIONS, seen=seen))
    for key, words in _WORDS.items():
        while f"{{{key}}}" in text:
            choices = [word for line in _pick(words, seen=seen) for word in line.split()]
            word = rng.choice(choices)
            if seen and rng.random() < _MADE_UP:
                word = "".join(rng.choices(_SYLLABLES, k=rng.randint(2, 4)))
                word = word.capitalize() if key in "PL" else word
            text = text.replace(f"{{{key}}}", word, 1)
    text = text.replace("{d}", str(rng.randint(2, 12))).replace("{Y}", str(rng.randint(1400, 2030)))
    return text[:1].upper() + text[1:] if rng.random() < _CAPITALS else text


_MADE_UP = 0.3  # the share of words that training makes up, so that no list of words is what it learns
_CAPITALS = 0.9


def _pick(wording: Wordings, *, seen: bool) -> tuple[str, ...]:
    return wording.seen if seen else wording.held_out
