"""Word problems from daily life, in wordings seen in training and held out."""

from __future__ import annotations

from magistral_nb.abacus.story import Story, told
from magistral_nb.abacus.trips import TRIPS
from magistral_nb.abacus.wordings import lines, wordings

_MONEY_LEFT = """How much money is left?
    How much is left?
    How much does {n} have left?
    How much money does {n} have now?
    What remains?
    How many {u} are left?"""
_AGE_OF_M = """How old is {m}?
    What is the age of {m}?
    How many years old is {m}?
    Do you know how old {m} is?"""
_AGE_OF_N_NOW = """{n} is {a} years old.
    {n} is {a} years old now.
    Today {n} is {a}.
    {n} has just become {a}."""

EVERYDAY = (
    Story(
        "shopping", 1, "a × b", "{u}", (2, 2),
        wordings(
            """What do {a} {t} at {b} {u} each cost?
            If one of the {t} is {b} {u}, what is the price of {a} {t}?
            How much does {n} pay for {a} {t} at {b} {u} each?
            What is the price of {a} {t} at {b} {u} each?
            {n} sells {a} {t} for {b} {u} each. How much money does {n} get?""",
            """{n} wants {a} {t}. Each one is {b} {u}. How much must {n} pay?
            How much money does {n} need for {a} {t} at {b} {u} each?
            Each of the {a} {t} costs {b} {u}. What do they cost together?""",
            *told(
                """{n} buys {a} {t} for {b} {u} each.
                {n} buys {a} {t} at {b} {u} each.
                {n} takes {a} {t}, each for {b} {u}.
                {n} orders {a} {t}. Each costs {b} {u}.
                {n} needs {a} {t}. The price of one is {b} {u}.
                {n} would like {a} {t}. One of them is {b} {u}.
                A shop sells {t} for {b} {u} each. {n} takes {a} of them.
                One of the {t} costs {b} {u}. {n} buys {a}.
                There are {a} {t}. Each one costs {b} {u}.
                Each of {a} {t} is worth {b} {u}.""",
                """What is the price?
                How much does {n} pay?
                How much is that?
                How much do they cost?
                What does {n} have to pay?
                How much do the {t} cost in all?
                What is the total?
                How much is it all together?""",
            ),
        ),
    ),
    Story(
        "shopping", 2, "a × b + c × d", "{u}", (1, 2, 1, 2),
        wordings(
            """What do {a} {t} at {b} {u} each and {c} {s} at {d} {u} each cost together?
            How much are {a} {t} at {b} {u} each and {c} {s} at {d} {u} each?""",
            """{n} wants {a} {t} at {b} {u} each and {c} {s} at {d} {u} each. How much must {n} pay?
            How much money does {n} need for {a} {t} at {b} {u} each and {c} {s} at {d} {u} each?""",
            *told(
                """{n} buys {a} {t} at {b} {u} each and {c} {s} at {d} {u} each.
                {n} buys {a} {t} for {b} {u} each and {c} {s} for {d} {u} each.
                {n} takes {a} {t} for {b} {u} each, and also {c} {s} for {d} {u} each.
                {n} orders {a} {t} at {b} {u} each and {c} {s}, which cost {d} {u} each.
                A shop sells {a} {t} for {b} {u} each and {c} {s} for {d} {u} each.
                There are {a} {t} at {b} {u} each and {c} {s} at {d} {u} each.""",
                """What is the price?
                How much does {n} pay?
                How much money is that?
                What does {n} have to pay?
                How much do they cost in all?
                What is the total?""",
            ),
        ),
    ),
    Story(
        "counting", 1, "a + b", "{t}", (3, 3),
        wordings(
            """A farm sells {a} {t} on Monday and {b} on Tuesday. How many {t} does it sell?
            {n} has {a} {t} and {m} has {b}. How many {t} do they have together?
            How many {t} are {a} {t} and {b} {t}?
            {n} and {m} have {a} and {b} {t}. How many {t} do they have in all?""",
            """{n} owns {a} {t}. Then {n} buys {b} more. How many {t} does {n} own now?
            On one table are {a} {t}, on another {b}. How many {t} are that in total?
            {m} brings {a} {t} and {n} brings {b}. How many {t} have they got together?""",
            *told(
                """{n} has {a} {t} and gets {b} more.
                {n} had {a} {t}. {m} gave {n} {b} more.
                {n} finds {a} {t}, then {b} more.
                {n} has {a} {t}. Then {m} brings {b} more.
                {n} has {a} {t} at home. {n} buys {b} {t} in a shop.
                {n} holds {a} {t} and receives {b} from {m}.
                First {n} collects {a} {t}, later {b} more.""",
                """How many {t} does {n} have now?
                How many {t} is that?
                How many {t} does {n} have?
                What number of {t} does {n} have then?
                How many {t} are there now?
                How many {t} are these together?""",
            ),
            *told(
                """There are {a} {t} in one box and {b} in another.
                In one bag are {a} {t}, in the other are {b}.
                {a} {t} are on the floor and {b} {t} on a shelf.
                {m} has {a} {t}, {n} has {b}.
                {m} buys {a} {t} and {n} buys {b}.""",
                """How many {t} are there in all?
                How many {t} are there?
                How many {t} are these together?
                How many {t} are these in total?
                What is the number of {t} in all?""",
            ),
        ),
    ),
    Story(
        "counting", 2, "a - b", "{t}", (3, 3),
        wordings(
            """Of {a} {t}, {b} are broken. How many {t} are whole?
            {n} has {a} {t} and {m} has {b}. How many more {t} does {n} have?
            {n} has {a} {t}, {m} only {b}. How many {t} more does {n} have than {m}?
            How many {t} are left of {a} when {b} are gone?""",
            """{n} owns {a} {t} and sells {b} of them. How many {t} are left?
            In a box are {a} {t}. {m} takes out {b}. How many {t} are still in the box?
            {n} had {a} {t}, then gave away {b}. How many {t} remain?""",
            *told(
                """{n} has {a} {t} and gives {b} to {m}.
                {n} had {a} {t} and lost {b}.
                {n} had {a} {t}. {m} took {b} of them away.
                {n} has {a} {t} and gives away {b}.
                {n} has {a} {t}. {b} of them break.
                {n} buys {a} {t} and uses {b} of them.
                {n} has {a} {t}, but {b} get lost.""",
                """How many {t} are left?
                How many {t} remain?
                How many {t} does {n} have now?
                How many {t} does {n} have left?
                How many {t} are still there?
                How many {t} does {n} keep?""",
            ),
            *told(
                """There are {a} {t}. {n} takes {b}.
                A shop has {a} {t} and sells {b}.
                There were {a} {t}, and {b} were sold.
                In a bag are {a} {t}. {n} removes {b}.""",
                """How many {t} are left?
                How many {t} remain?
                How many {t} are still there?
                What number of {t} is left?""",
            ),
        ),
    ),
    Story(
        "sharing", 1, "a ÷ b", "{t}", (2, 1),
        wordings(
            """{b} children share {a} {t}. How many does each get, and how many are left over?
            {n} and some friends are {b} people. They share {a} {t}. How many {t} are there for each?
            How many {t} does each get if {b} people share {a} {t}?""",
            """{b} friends share {a} {t} fairly. How many {t} does each one get?
            {n} puts {a} {t} into {b} bags, the same number in each. How many {t} are in one bag?
            How many {t} does each of {b} children get from {a} {t}?""",
            *told(
                """{n} shares {a} {t} among {b} friends.
                {b} children share {a} {t}.
                Divide {a} {t} among {b} people.
                {a} {t} are given to {b} children in equal parts.
                {n} has {a} {t} for {b} friends.
                {b} people want to share {a} {t}.""",
                """How many {t} does each get?
                How many {t} are there for each?
                How many {t} does each person get?
                What does each of them get?""",
            ),
            *told(
                """{a} {t} are packed into {b} boxes.
                {n} packs {a} {t} into {b} boxes of the same size.
                {a} {t} are put in {b} equal piles.
                {n} has {a} {t} and fills {b} boxes.
                {n} puts {a} {t} in {b} baskets.
                {a} {t} go into {b} crates, as many into each.
                {b} baskets hold {a} {t}, all of them as many.
                {n} lays {a} {t} on {b} plates.""",
                """How many {t} are in each?
                How many {t} go into each?
                How many {t} does one of them hold?
                How many {t} are in each of them?
                How many {t} is that for each?""",
            ),
            *lines("""{n} packs {a} {t} into {b} boxes, the same number in each. How many {t} are in one box?
            {a} {t} are packed into {b} boxes. How many {t} are in one box?
            {n} puts {a} {t} into {b} baskets, as many in each. How many {t} are in one basket?
            {n} puts {a} {t} in {b} jars, the same number in each. How many {t} does one jar hold?
            {n} lays {a} {t} in {b} rows. How many {t} are in one row?
            {a} {t} stand on {b} shelves, as many on each. How many {t} are on one shelf?
            {n} puts {a} {t} on {b} trays. How many {t} are on each tray?
            There are {a} {t} in {b} crates. How many {t} are in a crate?
            {n} fills {b} drawers with {a} {t}. How many {t} are in every drawer?
            {n} makes {b} piles of {a} {t}. How many {t} are in each pile?
            {a} {t} are put into {b} bags, as many into each. How many {t} does each bag hold?
            {n} fills {b} bags with {a} {t}. How many {t} are in every bag?
            {b} bags hold {a} {t}, all of them as many. How many {t} are in a bag?
            {n} sorts {a} {t} into {b} folders, the same number in each. How many {t} are in one folder?
            {n} packs {a} {t} into {b} suitcases, the same number in each. How many {t} are in one suitcase?
            {n} plants {a} {t} in {b} gardens, the same number in each. How many {t} are in one garden?"""),
        ),
    ),
    Story(
        "ages", 1, "a + b", "years", (2, 1),
        wordings(
            """How old is {n} in {b} years, being {a} now?
            How old will {n} be in {b} years if {n} is {a} today?""",
            """{n} is now {a} years old. What will be the age of {n} after {b} years?
            {m} is {a}, and {n} is {b} years older. What is the age of {n}?""",
            *told(
                """{n} is {a} years old. {m} is {b} years older.
                {n} is {a}. {m} is {b} years older than {n}.
                {m} is {b} years older than {n}, who is {a}.
                {n} is {a} years old, and {m} is older by {b} years.
                {n} is {a}, but {m} is {b} years older.""",
                _AGE_OF_M,
            ),
            *told(
                _AGE_OF_N_NOW,
                """How old will {n} be in {b} years?
                What is the age of {n} in {b} years?
                How old will {n} be {b} years from now?
                How old is {n} {b} years later?""",
            ),
        ),
    ),
    Story(
        "ages", 1, "a - b", "years", (2, 1),
        wordings(
            """What is the difference in age between {n}, {a}, and {m}, {b}?
            How old was {n} {b} years ago if {n} is {a} today?""",
            """{n} is now {a} years old. What was the age of {n} {b} years ago?
            {m} is {a}, and {n} is {b} years younger. What is the age of {n}?
            {n} is {a} years old, {m} is {b}. By how many years is {m} younger?""",
            *told(
                """{n} is {a} years old. {m} is {b} years younger.
                {n} is {a}. {m} is {b} years younger than {n}.
                {m} is {b} years younger than {n}, who is {a}.
                {n} is {a} years old, and {m} is younger by {b} years.
                {n} is {a}, but {m} is {b} years younger.""",
                _AGE_OF_M,
            ),
            *told(
                _AGE_OF_N_NOW,
                """How old was {n} {b} years ago?
                What was the age of {n} {b} years before?
                How old was {n} {b} years earlier?""",
            ),
            *told(
                """{n} is {a} and {m} is {b} years old.
                {n} is {a} years old and {m} is {b}.
                {n} is {a}, {m} is {b}.""",
                """How many years older is {n}?
                How much older is {n} than {m}?
                How many years younger is {m}?
                What is the difference of their ages?""",
            ),
        ),
    ),
    Story(
        "ages", 1, "a × b", "years", (2, 0),
        wordings(
            "How old is someone who is {b} times as old as {n}, who is {a}?",
            """{m} is {b} times as old as {n}, who is {a}. What is the age of {m}?""",
            *told(
                """{n} is {a} years old. {m} is {b} times as old.
                {n} is {a}. {m} is {b} times as old as {n}.
                {n} is {a} years old, and {m} is {b} times as old as {n}.
                {m} is {b} times as old as {n}. {n} is {a}.""",
                """How old is {m}?
                How many years old is {m}?
                What age has {m}?
                Do you know how old {m} is?""",
            ),
        ),
    ),
    Story(
        "money", 1, "a - b", "{u}", (3, 2),
        wordings(
            """{n} pays {b} {u} with {a} {u}. How much change does {n} get?
            How much is left of {a} {u} after {n} spends {b}?""",
            """From {a} {u}, {n} spends {b}. What is left?
            {n} owns {a} {u} and gives {b} {u} away. How much money remains?""",
            *told(
                """{n} has {a} {u} and spends {b}.
                {n} had {a} {u} and paid {b} {u} for lunch.
                {n} has {a} {u}. A book costs {b} {u}, and {n} buys it.
                {n} has {a} {u} and gives {b} to {m}.
                {n} had {a} {u} and lost {b}.
                {n} takes {a} {u} to a shop and pays {b} {u} there.
                Of {a} {u}, {n} uses {b}.
                With {a} {u} {n} buys a bag for {b} {u}.""",
                _MONEY_LEFT,
            ),
        ),
    ),
    Story(
        "money", 2, "a - b - c", "{u}", (3, 2, 2),
        wordings(
            "How much is left of {a} {u} after {n} pays {b} and then {c}?",
            """From {a} {u}, {n} spends {b} on {t} and {c} on {s}. What is left?
            {n} owns {a} {u} and gives {b} {u} to {m} and {c} {u} to a friend. How much money remains?""",
            *told(
                """{n} has {a} {u}. {n} spends {b} {u} on {t} and {c} {u} on {s}.
                {n} has {a} {u} and pays {b} {u} for {t} and {c} {u} for {s}.
                {n} has {a} {u}, spends {b} and then {c}.
                {n} had {a} {u}. First {n} paid {b} {u}, later {c} {u} more.
                {n} has {a} {u} and gives {b} to {m} and {c} to a child.
                Of {a} {u}, {n} uses {b} for {t} and {c} for {s}.
                {n} has {a} {u}, loses {b} and spends {c}.
                With {a} {u} {n} buys {t} for {b} {u} and {s} for {c} {u}.""",
                _MONEY_LEFT,
            ),
        ),
    ),
    Story(
        "money", 2, "a - b × c", "{u}", (3, 1, 2),
        wordings(
            "{n} pays for {b} {t} at {c} {u} each with {a} {u}. How much change does {n} get?",
            """From {a} {u}, {n} buys {b} {t} at {c} {u} each. What is left?
            {n} owns {a} {u} and takes {b} {t} for {c} {u} each. How much money remains?""",
            *told(
                """{n} has {a} {u} and buys {b} {t} at {c} {u} each.
                {n} has {a} {u}. {n} buys {b} {t} for {c} {u} each.
                {n} had {a} {u} and paid for {b} {t} at {c} {u} each.
                Of {a} {u}, {n} uses some for {b} {t} at {c} {u} each.
                With {a} {u} {n} gets {b} {t} for {c} {u} each.
                {n} has {a} {u} and needs {b} {t}, which cost {c} {u} each.
                {n} holds {a} {u} and picks {b} {t} at {c} {u} each.
                {n} earns {a} {u} and chooses {b} {t} for {c} {u} each.
                {n} brings {a} {u} and leaves with {b} {t} for {c} {u} each.""",
                """How much money is left?
                How much is left?
                How much does {n} have left?
                How much money does {n} have then?
                What remains?
                How many {u} are left?""",
            ),
        ),
    ),
)  # fmt: skip
STORIES = (*EVERYDAY, *TRIPS)
