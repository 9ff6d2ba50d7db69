"""From wishes to a running server: plan, find out whether it runs already, start its supervisor."""

from __future__ import annotations

import dataclasses
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from magistral_nb.errors import EngineNotFound, InvalidOption, MagistralError, NameTaken, PlanRefused
from magistral_nb.paths import HOME_VARIABLE
from magistral_nb.serving import (
    catalogue,
    checkpoint,
    download,
    hardware,
    idling,
    log_file,
    orphans,
    owners,
    planner,
    preflight,
    registry,
    tending,
)
from magistral_nb.serving.engine import VLLM_VERSION, Engine, check_platform, find_engine, release_for
from magistral_nb.serving.launch import KEY_BYTES
from magistral_nb.serving.plan import Choice, Plan, after_stopping, fingerprint
from magistral_nb.serving.server import Server, set_price, use
from magistral_nb.serving.terms import Terms
from magistral_nb.serving.wishes import Wishes

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence

    from magistral_nb.serving.download import Fetch
    from magistral_nb.serving.hardware import Hardware
    from magistral_nb.serving.profile import Profile
    from magistral_nb.serving.registry import ServerState
    from magistral_nb.serving.terms import Restart
    from magistral_nb.sharing.share import Share

_IDLE_BYTES = 2 * 2**30  # what a driver and a desktop hold of a card that is as good as free
_TELLING = ("context", "weights", "KV cache", "raw flags")  # what two plans for one model mostly differ in


@dataclass(frozen=True, slots=True)
class Prepared:
    """A boot that is planned and not begun.

    Attributes:
        plan: the command and its reasons.
        profile: the model.
        name: of the server to be.
        running: the state of a server that already runs by this very plan.
        downloads: what it needs of the hub.
        system_prompt: that makes the model think.
        notes: what stands in the way of more, in a line each.
        engine: as it was wished.
        terms: on which it will run.
    """

    plan: Plan
    profile: Profile
    name: str
    running: ServerState | None
    downloads: tuple[Fetch, ...]
    system_prompt: str | None
    notes: tuple[str, ...] = ()
    engine: str | None = None
    terms: Terms = field(default_factory=Terms)


def prepare(
    wishes: Wishes,
    terms: Terms | None = None,
    *,
    name: str = "default",
    engine: str | None = None,
    replace: bool = False,
    only_plan: bool = False,
) -> Prepared:
    """Plan a boot on this machine, and see whether it already runs.

    Args:
        wishes: what was asked for.
        terms: on which it will run; None takes the default ones.
        name: of the server.
        engine: as `find_engine` takes it.
        replace: another server of this name will be ended first.
        only_plan: nothing will be started, so that the engine need not be installed, nor the name be free.

    Raises:
        InvalidOption: a class would wake a server that is to sleep.
        UnsupportedPlatform: this engine has no build for this system.
        UnknownModel, NotACheckpoint, EngineNotFound, PlanRefused: see there.
        NameTaken: another plan runs under this name, or this one on other terms, and it is not to be replaced.
    """
    terms = terms or Terms()
    if terms.share is not None and wishes.sleepable:
        raise InvalidOption("A class would wake a server that is to sleep: leave --share or --sleepable away.")
    here = hardware.detect()
    check_platform(here.system, here.machine)
    named = None if wishes.model is None else catalogue.find_profile(wishes.model)
    notes = [here.trouble] if here.trouble else []
    found = _engine(engine, here, only_plan=only_plan)
    if found.build not in {"cuda" if here.gpus else "cpu", "unknown"}:
        raise PlanRefused(
            f"The vLLM {found.source} is built for {found.build.upper()}, and this machine has "
            f"{'GPUs' if here.gpus else 'no GPU'}: leave --engine away, and the one that fits is taken."
        )
    running = _running(name)
    if running is not None and not replace:
        # Looked for before a plan is made: the running server itself holds the memory that a plan would need.
        for profile in (named,) if named else catalogue.in_order(gpu=bool(here.gpus)):
            if running.plan.fingerprint == fingerprint(profile, wishes, found):
                if not only_plan:
                    _check_terms(running, terms)
                return Prepared(running.plan, profile, name, running, (), running.system_prompt, terms=terms)
        if not only_plan:
            raise _name_taken(running)
        notes.append(str(_name_taken(running)))
    left = registry.load(name)  # which `start` ends first: the server to be replaced, or what a dead one has left
    ending = {process.pid for process in orphans.engine_processes(left)} if left else set()
    if left and ending:
        here = after_stopping(here, left.plan, ending)
    profile, plan = _planned(here, named, wishes, found, ending)
    if named is None and (missed := _missed(here, profile, wishes, found, ending)):
        notes.append(missed)
    system_prompt, source = checkpoint.system_prompt(profile)
    why = "without it the model often does not think" if profile.thinks else "as the model was trained"
    told = Choice("system prompt", *("sent", why) if system_prompt else ("none", ""), source)
    return Prepared(
        dataclasses.replace(plan, choices=(*plan.choices, told, *terms.choices(wishes))),
        profile,
        name,
        None,
        download.fetches(profile, wishes),
        system_prompt,
        tuple(notes),
        engine,
        terms,
    )


def _engine(wish: str | None, here: Hardware, *, only_plan: bool) -> Engine:
    """The vLLM that runs, or that `--install` would bring where only a plan is wanted."""
    try:
        return find_engine(wish, gpu=bool(here.gpus), here=here)
    except EngineNotFound:
        if not only_plan or wish is not None:
            raise
    release = release_for(here).version if here.gpus else VLLM_VERSION
    return Engine(("vllm",), release, "cuda" if here.gpus else "cpu", "not installed yet: %magistral_serve --install")


def _missed(here: Hardware, taken: Profile, wishes: Wishes, engine: Engine, ending: Container[int]) -> str | None:
    """Whose memory keeps a better model from being taken, and how it is got back."""
    order = catalogue.in_order(gpu=bool(here.gpus))

    def better(there: Hardware) -> Plan:
        profile = planner.default_profile(there, wishes, engine)
        if order.index(profile) >= order.index(taken):
            raise PlanRefused(f"{profile.name} is no better.")
        return planner.make_plan(there, profile, wishes, engine)

    if taken is order[0] or not any(gpu.total - gpu.free > _IDLE_BYTES for gpu in here.gpus):
        return None
    return _whose(here, better, ending)


def _whose(here: Hardware, plan_with: Callable[[Hardware], Plan], ending: Container[int]) -> str | None:
    """Whose memory is in the way of a plan, those left out that `start` ends anyway."""
    staying = {pid: owner for pid, owner in owners.find_owners(here).items() if pid not in ending}
    return owners.explain_full(here, plan_with, staying)


def _planned(
    here: Hardware, named: Profile | None, wishes: Wishes, engine: Engine, ending: Container[int]
) -> tuple[Profile, Plan]:
    """The model and its plan; where only somebody else's memory is in the way, the refusal tells whose."""

    def plan_with(there: Hardware) -> Plan:
        return planner.make_plan(there, named or planner.default_profile(there, wishes, engine), wishes, engine)

    try:
        profile = named or planner.default_profile(here, wishes, engine)
        return profile, planner.make_plan(here, profile, wishes, engine)
    except PlanRefused as refusal:
        if told := _whose(here, plan_with, ending):
            raise PlanRefused(told) from refusal
        raise


def check(prepared: Prepared, *, port: int | None = None) -> int:
    """Look for what would stop the boot, before anything is started; returns the bytes that it will fetch.

    Raises:
        UnknownModel: files are missing that cannot be fetched: gated, offline, out of reach.
        NotACheckpoint: the repository does not hold what is needed.
        PlanRefused: the disk is too small, or the port is taken.
    """
    if prepared.running is not None:
        return 0
    if port is not None:
        preflight.check_port(port)
    return preflight.check_files(prepared.downloads)


def start(prepared: Prepared, *, replace: bool = False, port: int | None = None) -> Server:
    """Start the planned server, or attach to the one that runs by the same plan.

    Returns at once: the boot goes on in a process of its own. `Server.wait` waits for it.

    Raises:
        NameTaken: another plan runs under this name, or this one on other terms.
        PlanRefused: the wished port is taken.
        BootFailed: not even the supervisor started.
        MagistralError: the disk takes neither log nor state.
    """
    name, plan = prepared.name, prepared.plan
    with registry.lock(name):
        running = _running(name)
        if running is not None and not replace:
            if running.plan.fingerprint != plan.fingerprint:
                raise _name_taken(running)
            _check_terms(running, prepared.terms)
            if prepared.terms.price_per_hour is not None:
                set_price(running, prepared.terms.price_per_hour)
            return use(name)
        tending.end(name)  # the one to replace, or what a failed boot has left
        if port is not None:  # again, as the server to be replaced may have held it
            preflight.check_port(port)
        log_path = registry.log_path_of(name)
        try:
            log_file.fresh(log_path)
        except OSError as error:
            raise MagistralError(
                f"{log_path} cannot be written ({error.strerror}): make room, or set {HOME_VARIABLE} to a folder "
                "on another disk."
            ) from error
        if prepared.terms.share is not None:
            from magistral_nb.sharing import key_ring

            key_ring.begin(key_ring.path_of(registry.path_of(name)), prepared.terms.share.students)
        tending.start_supervisor(
            registry.ServerState(
                name=name,
                status="booting",
                plan=plan,
                api_key=secrets.token_urlsafe(KEY_BYTES),
                log_path=str(log_path),
                wished_port=port,
                wished_engine=prepared.engine,
                terms=prepared.terms,
                system_prompt=prepared.system_prompt,
                downloads=tuple(map(str, prepared.downloads)),
                created=time.time(),
            )
        )
    return use(name)


def _running(name: str) -> ServerState | None:
    """The server of this name, if it is ready or on its way.

    Raises:
        NameTaken: one may run, but its state file is not to be believed.
    """
    path = registry.path_of(name)
    found = registry.look(path)
    if isinstance(found, registry.Unusable):
        if found.elsewhere:
            raise NameTaken(f"Server {name!r} is known already, but {found.why}: add --name OTHER, or end it there.")
        if orphans.supervisors(path) or orphans.groups(path):
            raise NameTaken(
                f"Server {name!r} runs, but {path} is not to be believed ({found.why}): %magistral_stop {name} ends it."
            )
        return None
    return found if found is not None and not found.seen().is_down else None


def _name_taken(running: ServerState) -> NameTaken:
    wished = "".join(f", {choice.what} {choice.value}" for choice in running.plan.choices if choice.what in _TELLING)
    return NameTaken(
        f"Server {running.name!r} already runs another plan ({running.plan.model}{wished}): add --replace to end "
        "that one, or --name OTHER to run both."
    )


def _check_terms(running: ServerState, wished: Terms) -> None:
    """A server goes on as it was started: whoever wants it otherwise has to say that it may end.

    Raises:
        NameTaken: more was wished for than it does.
    """
    if not wished.are_kept_by(running.terms):
        terms = " ".join(running.terms.words()) or "the default ones"
        raise NameTaken(
            f"Server {running.name!r} runs by this plan, but on other terms ({terms}): add --replace to start it anew."
        )


def serve(
    model: str | None = None,
    *,
    context: int | None = None,
    quantization: str | None = None,
    kv_cache: str | None = None,
    gpus: int | None = None,
    pipeline_parallel: int = 1,
    data_parallel: int = 1,
    ray: bool = False,
    speculative: str | None = None,
    images: bool = False,
    name: str = "default",
    replace: bool = False,
    wait: bool = True,
    engine: str | None = None,
    port: int | None = None,
    idle_stop: float | None = idling.DEFAULT,
    restart: Restart = "never",
    sleepable: bool = False,
    share: Share | None = None,
    price_per_hour: float | None = None,
    engine_args: Sequence[str] = (),
    watch: Callable[[ServerState], None] | None = None,
) -> Server:
    """Boot a model with vLLM on this machine, or attach to it where it already runs.

    Args:
        model: short name ("2509", "ministral-8b", "abacus"), repository or folder; None takes Magistral Small, or
            the best that fits the GPU, and abacus, the embedded arithmetic model, without one.
        context: tokens, prompt and completion together; at most 40,960 unless you ask for more.
        quantization: "fp8" or "none"; None takes FP8 on a GPU.
        kv_cache: "fp8" or "auto"; None takes FP8 where the card can.
        gpus: how many share one copy of the model; None takes as few as it needs.
        pipeline_parallel: into how many stages these are split.
        data_parallel: how many copies of the model answer, each on GPUs of its own.
        ray: spread over the machines of a Ray cluster.
        speculative: "ngram" guesses tokens ahead from the text, a repository or folder with that draft model.
        images: take images as well; the encoder's memory is lost to the KV cache.
        name: under which the server is known.
        replace: end another server of this name first.
        wait: until it has answered a first question.
        engine: "here" for the vllm of this Python, or another environment's folder or vllm command.
        port: on 127.0.0.1; None finds a free one.
        idle_stop: seconds after which nobody's asking ends it, or lets it sleep where it can; None never does.
        restart: "on-failure" boots it again where vLLM ends by itself, at most three times in a row.
        sleepable: it can give the GPU to the notebook's own work and take it back (`Server.sleep`). It then listens
            on a Unix socket alone, as vLLM's development mode, which that needs, opens doors without a key.
        share: with a class, each student with a key of its own: `Share(students=("ada", "ben"))`.
        price_per_hour: what the machine costs, in any currency, so that answers have a cost. A server that runs
            already goes on as it was started, and this process alone reckons with the new price.
        engine_args: raw vLLM flags, handed on last.
        watch: called with the state about twenty times a second while it boots.

    Raises:
        InvalidOption, UnsupportedPlatform, UnknownModel, NotACheckpoint, EngineNotFound, PlanRefused: nothing was
            started.
        NameTaken: another plan runs under this name, or this one on other terms.
        BootFailed: with the cause as the log tells it.

    Example:
        >>> import magistral_nb
        >>> server = magistral_nb.serve("abacus")  # doctest: +SKIP
    """
    wishes = Wishes(
        model,
        context,
        quantization,
        kv_cache,
        gpus=gpus,
        pipeline_parallel=pipeline_parallel,
        data_parallel=data_parallel,
        ray=ray,
        speculative=speculative,
        images=images,
        sleepable=sleepable,
        engine_args=tuple(engine_args),
    )
    terms = Terms(idle_stop=idle_stop, restart=restart, price_per_hour=price_per_hour, share=share)
    prepared = prepare(wishes, terms, name=name, engine=engine, replace=replace)
    check(prepared, port=None if replace else port)
    server = start(prepared, replace=replace, port=port)
    return server.wait(watch=watch) if wait else server
