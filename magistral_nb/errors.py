"""Every error that magistral_nb raises on purpose.

    MagistralError
    ├── InvalidOption           an option or an argument that makes no sense
    ├── EmptyQuestion
    ├── UnsupportedPlatform     this engine has no build for this system
    ├── EngineNotFound          no vLLM where one was looked for
    ├── EngineInstallFailed
    ├── UnknownModel            neither a known name, a repository nor a folder
    ├── NotACheckpoint          a folder without a model in it
    ├── PlanRefused             this model, so configured, does not fit this machine
    ├── NameTaken               another plan runs under this name
    ├── ServerNotFound
    ├── BootFailed
    ├── ServerDied
    └── AskFailed               the endpoint did not answer the question
        ├── Unreachable
        ├── Unauthorized
        └── Rejected            the endpoint answered with an error of its own

    Interrupted (a KeyboardInterrupt) carries the partial Answer, or the Answers of several samples.

Each message is one line: what happened, why, and what to type next. A magic shows that line alone; from
Python the exception arrives with its whole chain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from magistral_nb.answers.answer import Answer
    from magistral_nb.answers.answers import Answers


class MagistralError(Exception):
    """The base of every error raised on purpose."""


class InvalidOption(MagistralError):
    """An option or an argument that makes no sense."""


class EmptyQuestion(MagistralError):
    """There was nothing to ask."""


class UnsupportedPlatform(MagistralError):
    """The engine has no build for this operating system or processor."""


class EngineNotFound(MagistralError):
    """No vLLM was found where one was looked for."""


class EngineInstallFailed(MagistralError):
    """The engine's environment could not be made."""


class UnknownModel(MagistralError):
    """The model is neither a known name, a repository nor a folder."""


class NotACheckpoint(MagistralError):
    """The folder holds no model that vLLM could load."""


class PlanRefused(MagistralError):
    """The model, so configured, does not fit this machine."""


class NameTaken(MagistralError):
    """Another plan already runs under this name."""


class ServerNotFound(MagistralError):
    """No server of this name is known."""


class BootFailed(MagistralError):
    """The server did not become ready."""


class ServerDied(MagistralError):
    """The server is gone though it should be there."""


class AskFailed(MagistralError):
    """The endpoint did not answer the question."""


class Unreachable(AskFailed):
    """Nothing answers at the endpoint's address."""


class Unauthorized(AskFailed):
    """The endpoint refused the key."""


class Rejected(AskFailed):
    """The endpoint answered with an error of its own."""


class Interrupted(KeyboardInterrupt):
    """A question was interrupted; `answer` holds all that had arrived, as Answers where it was asked several times."""

    def __init__(self, answer: Answer | Answers) -> None:
        """Keep the partial answer."""
        super().__init__("interrupted; the partial answer is kept")
        self.answer = answer
