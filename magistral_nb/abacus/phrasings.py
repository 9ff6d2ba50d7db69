"""How people ask: the wordings that training sees, and those that are held out to measure with.

`{a}`, `{b}`, … are numbers in the order in which they enter the calculation, `{n}` and `{m}` names, `{t}` a thing.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Wordings:
    """The wordings of one kind of question.

    Attributes:
        seen: what training draws from.
        held_out: what training never sees.
    """

    seen: tuple[str, ...]
    held_out: tuple[str, ...]


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.strip().splitlines())


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def wordings(seen: str, held_out: str) -> Wordings:
    """Wordings from two texts, one a line."""
    return Wordings(_lines(seen), _lines(held_out))


WORDINGS = {
    "add": wordings(
        """What is {a} + {b}?
        {a} + {b}
        {a}+{b}=?
        {a} + {b} =
        Calculate {a} + {b}.
        Add {a} and {b}.
        Add {a} to {b}.
        What is the sum of {a} and {b}?
        How much is {a} plus {b}?
        Compute {a}+{b}
        Please work out {a} + {b}.
        What's {a} plus {b}?
        {a} plus {b}
        What do you get if you add {a} and {b}?
        Sum of {a} and {b}?
        I want to know {a} + {b}.
        Can you add {a} and {b}?
        Solve {a} + {b}""",
        """Find {a} + {b}.
        Tell me what {a} plus {b} makes.
        What is the sum when {a} is added to {b}?
        Give me {a}+{b}.
        What does {a} + {b} equal?
        I need the sum of {a} and {b}, please.""",
    ),
    "subtract": wordings(
        """What is {a} - {b}?
        {a} - {b}
        {a}-{b}=?
        {a} − {b} =
        Calculate {a} - {b}.
        Subtract {b} from {a}.
        Deduct {b} from {a}.
        What is {a} minus {b}?
        Compute {a}-{b}
        Please work out {a} − {b}.
        How much is {a} minus {b}?
        What's {a} minus {b}?
        {a} minus {b}
        What is left of {a} after taking away {b}?
        What do you get if you subtract {b} from {a}?
        I want to know {a} - {b}.
        Can you subtract {b} from {a}?
        Take away {b} from {a}.
        Solve {a} - {b}""",
        """Find {a} - {b}.
        Tell me what {a} minus {b} makes.
        Give me {a}-{b}.
        What does {a} - {b} equal?
        What is the result when {b} is subtracted from {a}?
        Take {b} away from {a}.""",
    ),
    "multiply": wordings(
        """What is {a} × {b}?
        {a} × {b}
        {a}*{b}=?
        {a} x {b} =
        Calculate {a} × {b}.
        Multiply {a} by {b}.
        Multiply {a} and {b}.
        What is {a} times {b}?
        What is the product of {a} and {b}?
        Compute {a}*{b}
        Please work out {a} × {b}.
        How much is {a} x {b}?
        What is {a} * {b}?
        What's {a} times {b}?
        {a} times {b}
        What do you get if you multiply {a} by {b}?
        I want to know {a} × {b}.
        Can you multiply {a} by {b}?
        Solve {a} × {b}""",
        """Find {a} × {b}.
        Tell me what {a} times {b} makes.
        Give me {a}*{b}.
        What does {a} × {b} equal?
        What is the result when {a} is multiplied by {b}?
        I need the product of {a} and {b}, please.""",
    ),
    "divide": wordings(
        """What is {a} ÷ {b}?
        {a} ÷ {b}
        {a}/{b}=?
        {a} : {b} =
        Calculate {a} ÷ {b}.
        Divide {a} by {b}.
        What is {a} divided by {b}?
        Compute {a} / {b}
        How often does {b} go into {a}?
        Please work out {a} ÷ {b}.
        How much is {a} divided by {b}?
        {a} divided by {b}
        What's {a} / {b} with remainder?
        What do you get if you divide {a} by {b}?
        Can you divide {a} by {b}?
        Solve {a} ÷ {b}""",
        """Find {a} ÷ {b}.
        Tell me what {a} divided by {b} makes.
        Give me {a}/{b}.
        What does {a} ÷ {b} equal?
        What is the result when {a} is divided by {b}?
        How many times does {b} fit into {a}?""",
    ),
    "terms": wordings(
        """What is {e}?
        {e}
        {e} = ?
        Calculate {e}.
        Compute {e}
        Please work out {e}.
        How much is {e}?
        I want to know {e}.
        Solve {e}""",
        """Find {e}.
        Give me {e}.
        What does {e} equal?
        Tell me the value of {e}.""",
    ),
    "decimals": wordings(
        """What is {e}?
        {e}
        {e}=?
        {e} =
        Calculate {e}.
        Compute {e}
        Please work out {e}.
        How much is {w}?
        What's {w}?
        {w}
        Can you work out {e}?
        I want to know {e}.""",
        """Find {e}.
        Give me {e}.
        What does {e} equal?
        Tell me what {w} makes.""",
    ),
    "percent": wordings(
        """What is {a}% of {b}?
        What is {a} percent of {b}?
        {a}% of {b}
        How much is {a} % of {b}?
        Calculate {a}% of {b}.
        Compute {a} percent of {b}.
        {a} percent of {b} is what?
        I want to know {a}% of {b}.
        Please work out {a}% of {b}.""",
        """Find {a}% of {b}.
        Give me {a} percent of {b}.
        How many is {a}% of {b}?
        Tell me {a} % of {b}.""",
    ),
    "compare": wordings(
        """Which is larger, {a} or {b}?
        Which is smaller, {a} or {b}?
        Compare {a} and {b}.
        Which number is bigger: {a} or {b}?
        What is more, {a} or {b}?
        What is less, {a} or {b}?
        Which is greater: {a} or {b}?
        {a} or {b}, which is larger?
        Compare the numbers {a} and {b}.""",
        """Which of {a} and {b} is larger?
        Tell me which is bigger, {a} or {b}.
        How do {a} and {b} compare?
        Of {a} and {b}, which is greater?""",
    ),
    "is larger": wordings(
        """Is {a} larger than {b}?
        Is {a} bigger than {b}?
        Is {a} greater than {b}?
        Is {a} more than {b}?
        {a} > {b}?""",
        """Would you say {a} is larger than {b}?
        Is it true that {a} is bigger than {b}?""",
    ),
    "is smaller": wordings(
        """Is {a} smaller than {b}?
        Is {a} less than {b}?
        {a} < {b}?""",
        """Would you say {a} is smaller than {b}?
        Is it true that {a} is less than {b}?""",
    ),
    "ascending": wordings(
        """Sort {a}, {b}, {c}.
        Sort {a}, {b} and {c}.
        Put {a}, {b}, {c} in order.
        Order {a}, {b} and {c} from smallest to largest.
        Sort the numbers {a}, {b}, {c} in ascending order.""",
        """Arrange {a}, {b}, {c} from smallest to largest.
        Sort {a}, {b} and {c}, smallest first.""",
    ),
    "descending": wordings(
        """Sort {a}, {b}, {c} from largest to smallest.
        Put {a}, {b} and {c} in descending order.
        Order {a}, {b}, {c} from largest to smallest.
        Sort {a}, {b}, {c}, largest first.""",
        """Arrange {a}, {b} and {c} from largest to smallest.
        Sort the numbers {a}, {b}, {c} in descending order.""",
    ),
    "follow +": wordings(
        """and plus {b}?
        plus {b}?
        And if I add {b}?
        Now add {b}.
        Add {b} to that.
        + {b}""",
        """and {b} more?
        Then add {b} to it.""",
    ),
    "follow -": wordings(
        """minus {b}?
        And if I subtract {b}?
        Now subtract {b}.
        Subtract {b} from that.
        and then minus {b}?
        - {b}""",
        """and minus {b}?
        Then subtract {b} from it.""",
    ),
    "follow ×": wordings(
        """and times {b}?
        times {b}?
        Now multiply it by {b}.
        Multiply that by {b}.
        × {b}""",
        """and that times {b}?
        Then multiply by {b}.""",
    ),
    "follow ÷": wordings(
        """and divided by {b}?
        divided by {b}?
        Now divide it by {b}.
        Divide that by {b}.
        ÷ {b}""",
        """and that divided by {b}?
        Then divide by {b}.""",
    ),
}

# What may stand around a question.
FRAMES = wordings(
    """{q} Think carefully.
    Hi! {q}
    {q} Thanks!
    Please: {q}
    Quick question: {q}
    Question: {q}
    {q} Please answer.
    Hello, {q}
    Tell me: {q}
    I have a question. {q}
    Homework: {q}
    {q} Show your steps.""",
    """Good evening. {q}
    {q} Be careful.
    One more thing: {q}
    My teacher asks: {q}""",
)

NAMES = _words("Anna Ben Clara David Emma Felix Grace Henry Ida Jack Lena Max Nora Oscar Paul Rosa Sam Tina Tom Vera")
THINGS = _words(
    "apples pens books tickets eggs cards stamps coins cakes cups shirts balls lamps roses stones toys bags nuts "
    "pears keys cookies oranges pencils chairs bottles stickers marbles flowers candles sweets"
)
MONEY = ("euros", "dollars")
