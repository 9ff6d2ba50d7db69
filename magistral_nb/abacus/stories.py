"""Word problems: short stories around one or two calculations, in wordings seen in training and held out."""

from __future__ import annotations

from dataclasses import dataclass

from magistral_nb.abacus.phrasings import Wordings, wordings


@dataclass(frozen=True, slots=True)
class Story:
    """One kind of story.

    Attributes:
        kind: what it is counted as in the tables.
        level: how hard, from 1.
        work: the calculation, with a for {a} and so on.
        unit: the noun of the answer; {t} and {u} stand for the story's thing and currency.
        sizes: how many digits each number has at most; 0 stands for a factor of 2 to 9.
        wordings: how it is told.
    """

    kind: str
    level: int
    work: str
    unit: str
    sizes: tuple[int, ...]
    wordings: Wordings


STORIES = (
    Story(
        "shopping", 1, "a × b", "{u}", (2, 2),
        wordings(
            """One of the {t} costs {b} {u}. How much do {a} {t} cost?
            {n} buys {a} {t} for {b} {u} each. What is the price?
            {n} buys {a} {t} at {b} {u} each. How much does {n} pay?
            What do {a} {t} at {b} {u} each cost?
            {n} sells {a} {t} for {b} {u} each. How much money does {n} get?
            A shop sells {t} for {b} {u} each. {n} takes {a} of them. How much is that?
            If one of the {t} is {b} {u}, what is the price of {a} {t}?""",
            """{n} wants {a} {t}. Each one is {b} {u}. How much must {n} pay?
            How much money does {n} need for {a} {t} at {b} {u} each?
            Each of the {a} {t} costs {b} {u}. What do they cost together?""",
        ),
    ),
    Story(
        "shopping", 2, "a × b + c × d", "{u}", (1, 2, 1, 2),
        wordings(
            """{n} buys {a} {t} at {b} {u} each and {c} {s} at {d} {u} each. How much does {n} pay?
            {n} buys {a} {t} for {b} {u} each and {c} {s} for {d} {u} each. What is the price?
            What do {a} {t} at {b} {u} each and {c} {s} at {d} {u} each cost together?
            A shop sells {a} {t} for {b} {u} each and {c} {s} for {d} {u} each. How much money is that?""",
            """{n} wants {a} {t} at {b} {u} each and {c} {s} at {d} {u} each. How much must {n} pay?
            How much money does {n} need for {a} {t} at {b} {u} each and {c} {s} at {d} {u} each?""",
        ),
    ),
    Story(
        "counting", 1, "a + b", "{t}", (3, 3),
        wordings(
            """{n} has {a} {t} and gets {b} more. How many {t} does {n} have now?
            {n} has {a} {t} and {m} has {b}. How many {t} do they have together?
            There are {a} {t} in one box and {b} in another. How many {t} are there in all?
            {n} finds {a} {t}, then {b} more. How many {t} is that?
            {n} had {a} {t}. {m} gave {n} {b} more. How many {t} does {n} have?
            A farm sells {a} {t} on Monday and {b} on Tuesday. How many {t} does it sell?""",
            """{n} owns {a} {t}. Then {n} buys {b} more. How many {t} does {n} own now?
            On one table are {a} {t}, on another {b}. How many {t} are that in total?
            {m} brings {a} {t} and {n} brings {b}. How many {t} have they got together?""",
        ),
    ),
    Story(
        "counting", 2, "a - b", "{t}", (3, 3),
        wordings(
            """{n} has {a} {t} and gives {b} to {m}. How many {t} are left?
            There are {a} {t}. {n} takes {b}. How many {t} remain?
            {n} had {a} {t} and lost {b}. How many {t} does {n} have now?
            Of {a} {t}, {b} are broken. How many {t} are whole?
            {n} has {a} {t} and {m} has {b}. How many more {t} does {n} have?
            A shop has {a} {t} and sells {b}. How many {t} are left?""",
            """{n} owns {a} {t} and sells {b} of them. How many {t} are left?
            In a box are {a} {t}. {m} takes out {b}. How many {t} are still in the box?
            {n} had {a} {t}, then gave away {b}. How many {t} remain?""",
        ),
    ),
    Story(
        "sharing", 1, "a ÷ b", "{t}", (2, 1),
        wordings(
            """{b} children share {a} {t}. How many does each get, and how many are left over?
            {n} shares {a} {t} among {b} friends. How many {t} does each get?
            {a} {t} are packed into {b} boxes. How many {t} are in each box?
            {n} and some friends are {b} people. They share {a} {t}. How many {t} are there for each?
            Divide {a} {t} among {b} people. How many {t} does each get?""",
            """{b} friends share {a} {t} fairly. How many {t} does each one get?
            {n} puts {a} {t} into {b} bags, the same number in each. How many {t} are in one bag?
            How many {t} does each of {b} children get from {a} {t}?""",
        ),
    ),
    Story(
        "ages", 1, "a + b", "years", (2, 1),
        wordings(
            """{n} is {a} years old. {m} is {b} years older. How old is {m}?
            {n} is {a} years old. How old will {n} be in {b} years?
            {n} is {a}. {m} is {b} years older than {n}. How old is {m}?
            How old is {n} in {b} years, being {a} now?""",
            """{n} is now {a} years old. What will be the age of {n} after {b} years?
            {m} is {a}, and {n} is {b} years older. What is the age of {n}?""",
        ),
    ),
    Story(
        "ages", 1, "a - b", "years", (2, 1),
        wordings(
            """{n} is {a} years old. {m} is {b} years younger. How old is {m}?
            {n} is {a} years old. How old was {n} {b} years ago?
            {n} is {a}. {m} is {b} years younger than {n}. How old is {m}?
            {n} is {a} and {m} is {b} years old. How many years older is {n}?
            What is the difference in age between {n}, {a}, and {m}, {b}?""",
            """{n} is now {a} years old. What was the age of {n} {b} years ago?
            {m} is {a}, and {n} is {b} years younger. What is the age of {n}?
            {n} is {a} years old, {m} is {b}. By how many years is {m} younger?""",
        ),
    ),
    Story(
        "ages", 1, "a × b", "years", (2, 0),
        wordings(
            """{n} is {a} years old. {m} is {b} times as old. How old is {m}?
            {n} is {a}. {m} is {b} times as old as {n}. How old is {m}?""",
            """{m} is {b} times as old as {n}, who is {a}. What is the age of {m}?""",
        ),
    ),
    Story(
        "money", 1, "a - b", "{u}", (3, 2),
        wordings(
            """{n} has {a} {u} and spends {b}. How much money is left?
            {n} has {a} {u}. A book costs {b} {u}. How much is left after buying it?
            {n} pays {b} {u} with {a} {u}. How much change does {n} get?
            {n} had {a} {u} and paid {b} {u} for lunch. How much does {n} have left?""",
            """From {a} {u}, {n} spends {b}. What is left?
            {n} owns {a} {u} and gives {b} {u} away. How much money remains?""",
        ),
    ),
    Story(
        "money", 2, "a - b - c", "{u}", (3, 2, 2),
        wordings(
            """{n} has {a} {u}. {n} spends {b} {u} on {t} and {c} {u} on {s}. How much money is left?
            {n} has {a} {u} and pays {b} {u} for {t} and {c} {u} for {s}. How much is left?
            {n} has {a} {u}, spends {b} and then {c}. How much does {n} have left?""",
            """From {a} {u}, {n} spends {b} on {t} and {c} on {s}. What is left?
            {n} owns {a} {u} and gives {b} {u} to {m} and {c} {u} to a friend. How much money remains?""",
        ),
    ),
    Story(
        "money", 2, "a - b × c", "{u}", (3, 1, 2),
        wordings(
            """{n} has {a} {u} and buys {b} {t} at {c} {u} each. How much money is left?
            {n} pays for {b} {t} at {c} {u} each with {a} {u}. How much change does {n} get?
            {n} has {a} {u}. {n} buys {b} {t} for {c} {u} each. How much is left?""",
            """From {a} {u}, {n} buys {b} {t} at {c} {u} each. What is left?
            {n} owns {a} {u} and takes {b} {t} for {c} {u} each. How much money remains?""",
        ),
    ),
    Story(
        "speed", 1, "a ÷ b", "km/h", (3, 1),
        wordings(
            """A train travels {a} km in {b} hours. What is its speed in km/h?
            {n} drives {a} km in {b} h. How fast is that in km/h?
            If a car travels {a} km in {b} hours, what is its average speed in km/h?
            A bus needs {b} hours for {a} km. What is its speed?
            What is the average speed of a train that goes {a} km in {b} hours?""",
            """A truck covers {a} km in {b} hours. How fast is it?
            {n} rides {a} km within {b} hours. Find the average speed in km/h.""",
        ),
    ),
    Story(
        "speed", 1, "a × b", "km", (3, 1),
        wordings(
            """A car drives at {a} km/h for {b} hours. How far does it get?
            {n} travels {b} hours at {a} km/h. What is the distance?
            A train goes {a} km/h. How many km does it go in {b} hours?
            How far does a bus get in {b} hours at {a} km/h?""",
            """A truck runs {b} hours at {a} km/h. How many km does it cover?
            At {a} km/h, how far does {n} ride in {b} hours?""",
        ),
    ),
    Story(
        "speed", 2, "a km/h", "m/s", (3,),
        wordings(
            """What is {a} km/h in m/s?
            Convert {a} km/h to m/s.
            A car drives {a} km/h. How many meters per second is that?
            How many m/s are {a} km/h?
            A train goes {a} km/h. What is its speed in m/s?
            {a} km/h in m/s""",
            """Express {a} km/h in m/s.
            A truck runs at {a} km/h. How fast is that in m/s?""",
        ),
    ),
    Story(
        "speed", 3, "a km b h", "m/s", (3, 1),
        wordings(
            """A train travels {a} km in {b} hours. What is its average speed in m/s?
            {n} drives {a} km in {b} hours. How fast is that in m/s?
            If a train travels {a} km in {b} hours, what is its average speed in m/s?
            If a car travels {a} km in {b} hours, what is its average speed in m/s?
            A bus needs {b} hours for {a} km. What is its speed in m/s?
            What is the average speed in m/s of a car that goes {a} km in {b} hours?
            A car goes {a} km in {b} h. How many meters per second is that?""",
            """A truck covers {a} km in {b} hours. How fast is it in m/s?
            {n} rides {a} km within {b} hours. Find the average speed in m/s.""",
        ),
    ),
)  # fmt: skip
