"""How people ask: the wordings that training sees, and those that are held out to measure with.

`{a}`, `{b}`, … are numbers in the order in which they enter the calculation, `{n}` and `{m}` names, `{t}` a thing.
"""

from __future__ import annotations

from magistral_nb.abacus.wordings import each, lines, wordings, words

_ASKED = """What is [x]?
    What's [x]?
    Calculate [x].
    Compute [x].
    Work out [x].
    Please work out [x].
    How much is [x]?
    Evaluate [x].
    Determine [x].
    What would [x] be?
    Could you tell me [x]?
    Can you work out [x]?
    Can you tell me what [x] is?
    I want to know [x].
    I would like to know what [x] is.
    What do you get for [x]?
    What is the value of [x]?
    What is the answer to [x]?
    Do you know [x]?
    Let me know [x].
    Figure out [x].
    Show me [x].
    Get me [x].
    Hand me [x].
    Name [x].
    Write down [x].
    Find [x] for me.
    Do [x] for me.
    I need [x].
    Let us have [x].
    Say what [x] is.
    How about [x]?
    What number is [x]?
    Solve [x].
    What does [x] make?
    What does [x] give?
    What does [x] come to?
    [X] makes what?
    [X] is how much?
    [X]: how much?
    [X] is what?
    The result of [x]?
    Would you compute [x]?
    We need [x].
    Please, what is [x]?
    What comes out of [x]?
    [X]
    [X]?
    [X] ="""
_TOLD = """[X].
    [X], please.
    Please [x].
    Can you [x]?
    Could you [x]?
    Would you [x]?
    I want you to [x].
    Now [x].
    Try to [x].
    Let us [x].
    Help me to [x].
    What do you get if you [x]?
    What happens if you [x]?
    What comes out if I [x]?
    What is it if we [x]?
    What will I have if I [x]?
    [X]. What is it?
    [X] and say what it makes."""
_DONE = """What comes out when [x]?
    What comes out if [x]?
    If [x], what is the result?
    When [x], what does that make?
    How much is it when [x]?
    What number do you get when [x]?
    What do we have once [x]?
    [X]. What is the result?
    Say what you get when [x].
    What is it if [x]?"""
_COMPARED = """Which is [x], {a} or {b}?
    Which is [x]: {a} or {b}?
    Which one is [x], {a} or {b}?
    Which number is [x]: {a} or {b}?
    Which of the two is [x], {a} or {b}?
    Which of the numbers {a} and {b} is [x]?
    What is [x], {a} or {b}?
    Say which is [x]: {a} or {b}.
    Do you know which is [x], {a} or {b}?
    {a} or {b}, which is [x]?
    {a} and {b}: which is [x]?
    Between {a} and {b}, which is [x]?
    Here are {a} and {b}. Which is [x]?
    Name the [x] one of {a} and {b}."""
_CLAIMED = """Is {a} [x] than {b}?
    Is {a} really [x] than {b}?
    Is the number {a} [x] than {b}?
    {a} is [x] than {b}, right?
    True or false: {a} is [x] than {b}.
    Can you say whether {a} is [x] than {b}?
    Do you think {a} is [x] than {b}?
    I say {a} is [x] than {b}. Is that so?"""
_SORTED = """Sort {a}, {b}, {c} [x].
    Sort {a}, {b} and {c} [x].
    Sort the numbers {a}, {b}, {c} [x].
    Sort these numbers [x]: {a}, {b}, {c}.
    Order {a}, {b}, {c} [x].
    Order {a}, {b} and {c} [x].
    Order the numbers {a}, {b} and {c} [x].
    Put {a}, {b}, {c} [x].
    Put {a}, {b} and {c} [x].
    Write {a}, {b}, {c} [x].
    Rank {a}, {b} and {c} [x].
    Can you sort {a}, {b} and {c} [x]?
    Please sort {a}, {b}, {c} [x].
    I want {a}, {b}, {c} [x]."""
_UP = lines("""in ascending order
    from smallest to largest
    from small to large
    from the lowest to the highest
    with the smallest first
    from least to greatest
    beginning with the smallest
    in rising order""")
_DOWN = lines("""in descending order
    from largest to smallest
    from large to small
    from the highest to the lowest
    with the largest first
    from greatest to least
    beginning with the largest
    in falling order""")

WORDINGS = {
    "add": wordings(
        "What do you get if you add {a} and {b}?",
        """Find {a} + {b}.
        Tell me what {a} plus {b} makes.
        What is the sum when {a} is added to {b}?
        Give me {a}+{b}.
        What does {a} + {b} equal?
        I need the sum of {a} and {b}, please.""",
        *each(_ASKED, "{a} + {b}", "{a}+{b}", "{a} plus {b}", "the sum of {a} and {b}"),
        *each(_ASKED, "{a} increased by {b}", "{a} and {b} together", "the total of {a} and {b}", "{a} added to {b}"),
        *each(_TOLD, "add {a} and {b}", "add {a} to {b}", "add up {a} and {b}", "put {a} and {b} together"),
        *each(_DONE, "{a} is added to {b}", "{a} and {b} are added", "{a} is increased by {b}"),
    ),
    "subtract": wordings(
        "What is left of {a} after taking away {b}?",
        """Find {a} - {b}.
        Tell me what {a} minus {b} makes.
        Give me {a}-{b}.
        What does {a} - {b} equal?
        What is the result when {b} is subtracted from {a}?
        Take {b} away from {a}.""",
        *each(_ASKED, "{a} - {b}", "{a}-{b}", "{a} − {b}", "{a} minus {b}"),
        *each(_ASKED, "{a} reduced by {b}", "{b} subtracted from {a}", "{a} less {b}", "{b} taken from {a}"),
        *each(_TOLD, "subtract {b} from {a}", "deduct {b} from {a}", "take {b} from {a}", "take away {b} from {a}"),
        *each(_TOLD, "remove {b} from {a}", "reduce {a} by {b}"),
        *each(_DONE, "{b} is subtracted from {a}", "{b} is taken away from {a}", "{a} is reduced by {b}"),
    ),
    "multiply": wordings(
        "How much are {a} times {b}?",
        """Find {a} × {b}.
        Tell me what {a} times {b} makes.
        Give me {a}*{b}.
        What does {a} × {b} equal?
        What is the result when {a} is multiplied by {b}?
        I need the product of {a} and {b}, please.""",
        *each(_ASKED, "{a} × {b}", "{a} x {b}", "{a}*{b}", "{a} * {b}", "{a} times {b}"),
        *each(_ASKED, "the product of {a} and {b}", "{a} multiplied by {b}"),
        *each(_TOLD, "multiply {a} by {b}", "multiply {a} and {b}", "multiply {a} with {b}"),
        *each(_DONE, "{a} is multiplied by {b}", "{a} and {b} are multiplied"),
    ),
    "divide": wordings(
        """How often does {b} go into {a}?
        How many times does {b} go into {a}?
        How often does {b} fit into {a}?
        How many times is {b} contained in {a}?
        What's {a} / {b} with remainder?
        How many groups of {b} are in {a}?""",
        """Find {a} ÷ {b}.
        Tell me what {a} divided by {b} makes.
        Give me {a}/{b}.
        What does {a} ÷ {b} equal?
        What is the result when {a} is divided by {b}?
        How many times does {b} fit into {a}?""",
        *each(_ASKED, "{a} ÷ {b}", "{a} / {b}", "{a}/{b}", "{a} : {b}", "{a} divided by {b}"),
        *each(_ASKED, "the quotient of {a} and {b}", "{a} over {b}"),
        *each(_TOLD, "divide {a} by {b}", "split {a} into {b} equal parts"),
        *each(_DONE, "{a} is divided by {b}", "{a} is split into {b} equal parts"),
    ),
    "terms": wordings(
        "{e} = ?",
        """Find {e}.
        Give me {e}.
        What does {e} equal?
        Tell me the value of {e}.""",
        *each(_ASKED, "{e}"),
    ),
    "decimals": wordings(
        "{e}=?",
        """Find {e}.
        Give me {e}.
        What does {e} equal?
        Tell me what {w} makes.""",
        *each(_ASKED, "{e}", "{w}"),
    ),
    "percent": wordings(
        """How many are {a}% of {b}?
        {b}: what is {a}% of it?""",
        """Find {a}% of {b}.
        Give me {a} percent of {b}.
        How many is {a}% of {b}?
        Tell me {a} % of {b}.""",
        *each(_ASKED, "{a}% of {b}", "{a} % of {b}", "{a} percent of {b}", "{a} per cent of {b}"),
        *each(_TOLD, "take {a}% of {b}", "work out {a} percent of {b}"),
    ),
    "compare": wordings(
        """Compare {a} and {b}.
        Compare {a} with {b}.
        Compare {a} to {b}.
        Please compare {a} and {b}.
        Can you compare {a} with {b}?
        Compare the numbers {a} and {b}.
        How does {a} compare to {b}?
        How does {a} compare with {b}?
        Put < or > between {a} and {b}.""",
        """Which of {a} and {b} is larger?
        Tell me which is bigger, {a} or {b}.
        How do {a} and {b} compare?
        Of {a} and {b}, which is greater?""",
        *each(_COMPARED, "larger", "bigger", "greater", "smaller", "more", "less", "higher", "lower"),
    ),
    "is larger": wordings(
        "{a} > {b}?",
        """Would you say {a} is larger than {b}?
        Is it true that {a} is bigger than {b}?""",
        *each(_CLAIMED, "larger", "bigger", "greater", "more", "higher"),
    ),
    "is smaller": wordings(
        "{a} < {b}?",
        """Would you say {a} is smaller than {b}?
        Is it true that {a} is less than {b}?""",
        *each(_CLAIMED, "smaller", "less", "lower"),
    ),
    "ascending": wordings(
        """Sort {a}, {b}, {c}.
        Sort {a}, {b} and {c}.
        Put {a}, {b}, {c} in order.
        Order {a}, {b}, {c}, smallest first.
        Put {a}, {b} and {c} in order, smallest first.""",
        """Arrange {a}, {b}, {c} from smallest to largest.
        Sort {a}, {b} and {c}, smallest first.""",
        *each(_SORTED, *_UP),
    ),
    "descending": wordings(
        """Sort {a}, {b}, {c}, largest first.
        Order {a}, {b}, {c}, largest first.
        Put {a}, {b} and {c} in order, largest first.""",
        """Arrange {a}, {b} and {c} from largest to smallest.
        Sort the numbers {a}, {b}, {c} in descending order.""",
        *each(_SORTED, *_DOWN),
    ),
    "follow +": wordings(
        """and plus {b}?
        plus {b}?
        + {b}
        and + {b}?
        now plus {b}
        And with {b} added?
        And {b} on top?
        Now {b} more.
        What is that plus {b}?
        that plus {b}?
        Plus {b} makes?
        Increase it by {b}.""",
        """and {b} more?
        Then add {b} to it.""",
        *each(_TOLD, "add {b}", "add {b} to that"),
        "And if I add {b}?",
    ),
    "follow -": wordings(
        """minus {b}?
        - {b}
        and - {b}?
        now minus {b}
        and then minus {b}?
        And without {b}?
        less {b}?
        What is that minus {b}?
        that minus {b}?
        Minus {b} makes?
        Reduce it by {b}.""",
        """and minus {b}?
        Then subtract {b} from it.""",
        *each(_TOLD, "subtract {b}", "subtract {b} from that", "take away {b}"),
        "And if I subtract {b}?",
    ),
    "follow ×": wordings(
        """and times {b}?
        times {b}?
        × {b}
        and × {b}?
        now times {b}
        What is that times {b}?
        Times {b} makes?
        And multiplied by {b}?
        that × {b}?""",
        """and that times {b}?
        Then multiply by {b}.""",
        *each(_TOLD, "multiply it by {b}", "multiply that by {b}", "multiply the result by {b}"),
    ),
    "follow ÷": wordings(
        """and divided by {b}?
        divided by {b}?
        ÷ {b}
        and ÷ {b}?
        now divided by {b}
        What is that divided by {b}?
        Divided by {b} makes?
        And split by {b}?
        that / {b}?""",
        """and that divided by {b}?
        Then divide by {b}.""",
        *each(_TOLD, "divide it by {b}", "divide that by {b}", "divide the result by {b}"),
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

NAMES = words("Anna Ben Clara David Emma Felix Grace Henry Ida Jack Lena Max Nora Oscar Paul Rosa Sam Tina Tom Vera")
THINGS = words(
    "apples pens books tickets eggs cards stamps coins cakes cups shirts balls lamps roses stones toys bags nuts "
    "pears keys cookies oranges pencils chairs bottles stickers marbles flowers candles sweets"
)
MONEY = ("euros", "dollars")
