"""Word problems on the way: speeds, distances, and km/h in m/s."""

from __future__ import annotations

from magistral_nb.abacus.story import Story, told
from magistral_nb.abacus.wordings import wordings

TRIPS = (
    Story(
        "speed", 1, "a ÷ b", "km/h", (3, 1),
        wordings(
            """A bus needs {b} hours for {a} km. What is its speed?
            If a car travels {a} km in {b} hours, what is its average speed in km/h?
            What is the average speed of a train that goes {a} km in {b} hours?
            How fast is a car that needs {b} hours for {a} km?""",
            """A truck covers {a} km in {b} hours. How fast is it?
            {n} rides {a} km within {b} hours. Find the average speed in km/h.""",
            *told(
                """A train travels {a} km in {b} hours.
                A car goes {a} km in {b} h.
                {n} drives {a} km in {b} hours.
                A bus makes {a} km in {b} hours.
                {n} gets {a} km far within {b} hours.
                It takes a bus {b} hours to go {a} km.
                In {b} hours, a car travels {a} km.""",
                """What is the speed in km/h?
                How fast is that in km/h?
                What is the average speed in km/h?
                Work out the average speed in km/h.
                What speed is that?
                How many km/h are that?
                How fast is that?""",
            ),
        ),
    ),
    Story(
        "speed", 1, "a × b", "km", (3, 1),
        wordings(
            """{n} travels {b} hours at {a} km/h. What is the distance?
            A train goes {a} km/h. How many km does it go in {b} hours?
            How far does a bus get in {b} hours at {a} km/h?
            At {a} km/h, how far does a car get in {b} hours?
            At {a} km/h, how many km does {n} drive in {b} hours?
            How far does {n} travel in {b} hours at {a} km/h?
            In {b} hours at {a} km/h, how far does {n} go?
            How many km does {n} go in {b} h at {a} km/h?""",
            """A truck runs {b} hours at {a} km/h. How many km does it cover?
            At {a} km/h, how far does {n} ride in {b} hours?""",
            *told(
                """A car drives at {a} km/h for {b} hours.
                {n} drives {b} hours at {a} km/h.
                A train goes {a} km/h for {b} h.
                For {b} hours a bus drives at {a} km/h.
                {n} travels at {a} km/h, {b} hours long.""",
                """How far is that?
                What is the distance?
                How many km is that?
                What distance is that in km?
                How many km are travelled?""",
            ),
        ),
    ),
    Story(
        "speed", 2, "a km/h", "m/s", (3,),
        wordings(
            """What is {a} km/h in m/s?
            Convert {a} km/h to m/s.
            Convert {a} km/h into meters per second.
            How many m/s are {a} km/h?
            How many meters per second are {a} km/h?
            {a} km/h in m/s
            {a} km/h, what is that in m/s?
            How much is {a} km/h in m/s?
            Write {a} km/h in m/s.
            Turn {a} km/h into m/s.""",
            """Express {a} km/h in m/s.
            A truck runs at {a} km/h. How fast is that in m/s?""",
            *told(
                """A car drives {a} km/h.
                A train goes {a} km/h.
                {n} drives at {a} km/h.
                The speed of a bus is {a} km/h.
                A car has a speed of {a} km/h.""",
                """How many meters per second is that?
                What is the speed in m/s?
                How much is that in m/s?
                How many m/s are that?
                What is that in m/s?""",
            ),
        ),
    ),
    Story(
        "speed", 3, "a km b h", "m/s", (3, 1),
        wordings(
            """If a train travels {a} km in {b} hours, what is its average speed in m/s?
            If a car travels {a} km in {b} hours, what is its average speed in m/s?
            What is the average speed in m/s of a car that goes {a} km in {b} hours?
            How fast in m/s is a car that needs {b} hours for {a} km?""",
            """A truck covers {a} km in {b} hours. How fast is it in m/s?
            {n} rides {a} km within {b} hours. Find the average speed in m/s.""",
            *told(
                """A train travels {a} km in {b} hours.
                A car goes {a} km in {b} h.
                {n} drives {a} km in {b} hours.
                A bus makes {a} km in {b} hours.
                A bus needs {b} hours for {a} km.
                {n} gets {a} km far within {b} hours.
                It takes a bus {b} hours to go {a} km.
                In {b} hours, a car travels {a} km.""",
                """What is the speed in m/s?
                How fast is that in m/s?
                What is the average speed in m/s?
                Work out the average speed in m/s.
                How many m/s are that?
                How many meters per second is that?""",
            ),
        ),
    ),
)  # fmt: skip
