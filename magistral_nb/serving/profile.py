"""What a model is, as far as serving it goes: values that the catalogue makes and the plan reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from magistral_nb.asking.endpoint import Sampling
from magistral_nb.errors import PlanRefused

if TYPE_CHECKING:
    from magistral_nb.asking.system_prompt import Marks

Layout = Literal["mistral", "huggingface"]
Stored = Literal["bf16", "fp8", "int8", "int4", "fp4"]

# Mistral's card gives both for every Magistral and Ministral Reasoning release.
MISTRAL_SAMPLING = Sampling(temperature=0.7, top_p=0.95)
# Mistral advises it for Magistral Small 2506 and 2507. Traces take up to 25,000 tokens on competition problems.
USUAL_CONTEXT = 40_960
_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what every --max-lora-rank takes; newer ones also 1
ABACUS_FOLDER = Path(__file__).parent.parent / "abacus"

# Bytes. Four bits bring a BF16 scale and a 4-bit zero point for every 32 weights (compressed-tensors W4A16; AWQ's and
# GPTQ's groups of 128 take a tenth less), FP4 brings an FP8 scale for every 16 (NVFP4).
_OF_A_WEIGHT: dict[Stored, float] = {
    "bf16": 2,
    "fp8": 1,
    "int8": 1,
    "int4": 0.5 + 2.5 / 32,
    "fp4": 0.5 + 1 / 16,
}


def stored_bytes(parameters: float, embeddings: float, stored: Stored) -> float:
    """Bytes of a checkpoint of which all but the embeddings is quantised.

    Example:
        >>> round(stored_bytes(23.57e9, 1.34e9, "fp8") / 1e9, 1)  # Magistral Small, GB
        24.9
    """
    return 2 * embeddings + (parameters - embeddings) * _OF_A_WEIGHT[stored]


def parameters_of(size: float, embeddings: float, stored: Stored) -> float:
    """The inverse of `stored_bytes`: how many parameters so many bytes are.

    Example:
        >>> parameters_of(stored_bytes(1000, 100, "int4"), 100, "int4")
        1000.0
    """
    kept = min(embeddings, size / 2)
    return kept + (size - 2 * kept) / _OF_A_WEIGHT[stored]


@dataclass(frozen=True, slots=True)
class Shape:
    """What decides a model's memory.

    Attributes:
        parameters: how many, vision encoder included.
        layers: of attention.
        kv_heads: per layer.
        head_size: values per head.
        embeddings: parameters that stay in BF16 when the rest is quantised: of input, output and vision encoder.
        heads: of attention per layer; tensor parallelism divides them. 0 where not told.
        width: values of the residual stream; 0 where not told.
        hidden: values inside the feed-forward network; 0 where not told.
        vision: parameters of the image encoder, which are among `parameters` and `embeddings`.
        stored_bytes: of weights that lie there quantised; None where they lie in BF16.
    """

    parameters: float
    layers: int
    kv_heads: int
    head_size: int
    embeddings: float = 0
    heads: int = 0
    width: int = 0
    hidden: int = 0
    vision: float = 0
    stored_bytes: float | None = None

    def weight_bytes(self, *, fp8: bool) -> float:
        """Bytes of memory that the weights take; quantised ones stay as they are stored, whatever `fp8` says.

        Example:
            >>> shape = Shape(23.6e9, 40, 8, 128, embeddings=2 * 131_072 * 5_120)
            >>> round(shape.weight_bytes(fp8=True) / 2**30, 1)  # Magistral Small, GiB
            23.2
            >>> Shape(23.6e9, 40, 8, 128, stored_bytes=15e9).weight_bytes(fp8=True)
            15000000000.0
        """
        if self.stored_bytes is not None:
            return self.stored_bytes
        return self.parameters + self.embeddings if fp8 else 2 * self.parameters

    def kv_bytes(self, bytes_per_value: float) -> float:
        """Bytes of KV cache that one token takes: a key and a value per layer and head.

        Example:
            >>> Shape(23.6e9, 40, 8, 128).kv_bytes(2) / 1024  # Magistral Small in BF16, KiB
            160.0
        """
        return 2 * self.layers * self.kv_heads * self.head_size * bytes_per_value

    def adapter_bytes(self, rank: int) -> float:
        """Bytes of a LoRA adapter in BF16: in each layer, rank times inputs and outputs of what it can change.

        Example:
            >>> round(Shape(23.6e9, 40, 8, 128, heads=32, width=5120, hidden=32768).adapter_bytes(16) / 1e6)  # MB
            185
        """
        queries, keys = self.heads * self.head_size, self.kv_heads * self.head_size
        attention = 2 * (self.width + queries) + 2 * (self.width + keys)
        return 2 * rank * self.layers * (attention + 3 * (self.width + self.hidden))


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter that is loaded beside its base model.

    Attributes:
        name: under which requests ask for it.
        path: its folder, or its repository on the hub.
        rank: the largest of its matrices.
    """

    name: str
    path: str
    rank: int


@dataclass(frozen=True, slots=True)
class Profile:
    """One model that can be served; with an adapter, it is the base model's.

    Attributes:
        name: under which it is served.
        title: for people.
        source: a repository on the hub, or an absolute folder.
        layout: "mistral" (params.json, tekken.json) or "huggingface" (config.json).
        context: what the plan takes unasked, in tokens: enough for a long trace, and no more than the card advises.
        longest_context: what its weights allow, in tokens.
        shape: None where only the checkpoint itself knows.
        sampling: the model's own.
        download: bytes of weights that come from the hub; 0 for a folder.
        vision: whether it also takes images.
        marks: what its thoughts stand between.
        stored: type of the weights as they lie there, embeddings and vision encoder apart.
        quantization: vLLM's method that the checkpoint names, such as "compressed-tensors"; vLLM needs no flag for it.
        tokenizer: repository or folder whose tekken.json serves a model in Hugging Face format, its own or its base
            model's, with --tokenizer THIS --tokenizer-mode mistral. Before 0.32 vLLM's --reasoning-parser mistral
            takes no other tokenizer, and Mistral's cards name mistral-common, which reads that file, as the chat
            format's source of truth; whoever re-uploads or merges a model may leave it behind. None in Mistral format,
            which brings it, and where there is none.
        thinks: whether its tekken.json has [THINK] and [/THINK] as control tokens, or its system prompt asks for
            <think> as 2506's does. Without either a reasoning parser would find nothing.
        adapters: LoRA adapters to load with it.
        origin: where its figures come from, for people.
        needs_ministral_3: whether only a vLLM that knows Ministral 3 can serve it.
    """

    name: str
    title: str
    source: str
    layout: Layout
    context: int
    longest_context: int
    shape: Shape | None
    sampling: Sampling = field(default_factory=Sampling)
    download: float = 0
    vision: bool = False
    marks: Marks = "tokens"
    stored: Stored = "bf16"
    quantization: str | None = None
    tokenizer: str | None = None
    thinks: bool = False
    adapters: tuple[Adapter, ...] = ()
    needs_ministral_3: bool = False
    origin: str = "its own files"

    @property
    def embedded(self) -> bool:
        """Whether it lies in this package."""
        return self.source == str(ABACUS_FOLDER)

    @property
    def is_local(self) -> bool:
        """Whether it lies in a folder of this machine."""
        return Path(self.source).is_absolute()

    def lora_rank(self) -> int:
        """The --max-lora-rank that its adapters need; 0 without any.

        Raises:
            PlanRefused: no vLLM takes so much.
        """
        wanted = max((adapter.rank for adapter in self.adapters), default=0)
        if wanted > _LORA_RANKS[-1]:
            raise PlanRefused(
                f"The adapter is of rank {wanted}, and vLLM takes {_LORA_RANKS[-1]} at most: merge it into its base, "
                "and name that folder."
            )
        return next(each for each in _LORA_RANKS if each >= wanted) if wanted else 0
