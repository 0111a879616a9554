"""Tensor parallel: one model whose weights and KV cache are divided among several processes.

How weights are divided is transformers' plan (`DistributedConfig(tp_size=N)`): each process holds
some of the heads and of the inner features of every layer, and with its KV heads its part of the
cache. LongVA-7B has four KV heads, so 2 and 4 ways are possible.

What is unusual: only process 0 evaluates. It alone runs lmms-eval, reads videos, runs the vision
tower, chooses tokens and writes files. The others follow: they are told each step of the language
model (embed these ids, run these embeddings from that position on, read these rows) and compute
their part of it. So processes cannot drift apart, nothing is decoded twice, and lmms-eval, which
would give each process other documents, sees one process.

    with joined(2) as leads:  # in each of two processes, started by torchrun
        if leads:
            session = open_session("lmms-lab/LongVA-7B", tensor_parallel=2)

Nobody waits for ever: each process gives signs of life through the store that torch.distributed was
started with, and ends when another one failed or fell silent.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from loguru import logger
from torch import distributed
from torch.distributed.tensor import DTensor
from transformers import Cache

from longva_eval.engine.kv_buffer import BufferLayer
from longva_eval.engine.prefix import is_out_of_memory
from longva_eval.errors import CheckpointError, EvaluationError, ResourceError, SettingsError
from longva_eval.model.modeling import VisionLanguageModel
from longva_eval.model.rope import RopeSettings
from longva_eval.running.ranks import Ranks

if TYPE_CHECKING:
    from longva_eval.model.checkpoint import Checkpoint

__all__ = [
    "CONTEXT_PARALLEL",
    "Team",
    "check_divisible",
    "check_tensor_parallel",
    "current_team",
    "joined",
]

CONTEXT_PARALLEL = (
    "context_parallel is not offered: PyTorch's ring attention takes a prompt in one piece (it "
    "refuses queries that are fewer than keys, so neither chunks nor a KV cache nor decoding), and "
    "has no CPU kernel. tensor_parallel divides the KV cache of one context among devices; one "
    "48 GB card holds 3,000 frames. See docs/parallel.md."
)
"""Why there is no such setting."""

_LOAD, _ROPE, _EMBED, _FORWARD, _READ, _END = range(6)
_HIDDEN_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_STEP_LIMIT = timedelta(minutes=30)
"""No single step takes so long: prefill goes in chunks."""
_IDLE_LIMIT = timedelta(days=365)
"""Followers wait while videos are read and scores computed; signs of life tell a dead leader."""
_SILENT_SECONDS = 300.0
_WATCH_SECONDS = 1.0
_GRACE_SECONDS = 10.0
"""So long a process has to report what it noticed itself, before it is ended."""


def check_tensor_parallel(size: int, *, device: str, device_map: str | None) -> None:
    """Make sure that a model can be loaded for so many processes.

    Raises:
        SettingsError: If it cannot, with what to start instead.
    """
    if size < 1:
        raise SettingsError(f"tensor_parallel={size} must be at least 1.")
    team = _team
    if size == 1:
        if team is not None:
            raise SettingsError(
                f"{team.size} processes wait for a model with tensor_parallel={team.size}."
            )
        return
    if device_map:
        raise SettingsError(
            f"tensor_parallel={size} and device_map={device_map} both divide the model: one per "
            "process, the other inside one process. Use one of them."
        )
    if team is None or team.size != size:
        joined_here = "none have" if team is None else f"{team.size} have"
        raise SettingsError(
            f"tensor_parallel={size} needs {size} processes that joined to share a model, and "
            f"{joined_here}. Start them as: torchrun --nproc-per-node {size} -m longva_eval run "
            f"--model longva --model_args tensor_parallel={size},... (lmms-eval by itself would "
            f"give each process other documents; niah takes --tensor-parallel {size})."
        )
    if device == "cpu" and torch.cuda.is_available():
        raise SettingsError(
            "device=cpu with tensor_parallel is for machines without a GPU: transformers divides "
            "over the GPUs it sees. Set CUDA_VISIBLE_DEVICES= (empty) to hide them."
        )
    if device not in ("auto", "", "None", "cpu", "cuda"):
        raise SettingsError(
            f"device={device} with tensor_parallel: each process has the GPU of its own number; "
            "leave device out, and choose GPUs with CUDA_VISIBLE_DEVICES."
        )


def check_divisible(size: int, config: Any, raw: Mapping[str, Any], folder: Path) -> None:
    """Make sure that the heads of a language model can be divided, before weights are read.

    Args:
        size: Number of processes.
        config: Of the language model.
        raw: The checkpoint's `config.json`.
        folder: Of the checkpoint, for the message.

    Raises:
        SettingsError: If they cannot.
    """
    if size == 1:
        return
    if raw.get("quantization_config"):
        raise SettingsError(
            f"tensor_parallel={size}: {folder} is quantised, and packed weights are not divided "
            "here. Use the unquantised checkpoint, or device_map=auto."
        )
    if not getattr(config, "base_model_tp_plan", None):
        raise SettingsError(
            f"tensor_parallel={size}: transformers has no plan for dividing "
            f"{type(config).__name__}. Use device_map=auto."
        )
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    if heads % size or kv_heads % size:
        possible = [n for n in range(2, kv_heads + 1) if not heads % n and not kv_heads % n]
        raise SettingsError(
            f"tensor_parallel={size} does not divide the {heads} heads and {kv_heads} KV heads of "
            f"{folder}; possible: {', '.join(map(str, possible)) or 'none'}."
        )


def current_team() -> Team | None:
    """The processes that share a model; None where there is only this one."""
    return _team


@contextmanager
def joined(size: int) -> Iterator[bool]:
    """Let the processes that torchrun started be one, whose number 0 evaluates.

    Args:
        size: How many share a model; 1 changes nothing.

    Yields:
        True in the process that evaluates, with torchrun's variables out of its sight; False in the
        others, after the first one is done: there is nothing left to do for them.

    Raises:
        SettingsError: If there are not as many processes, or devices for them.
        EvaluationError: In the others, if a step fails.
    """
    global _team
    if size < 2:
        yield True
        return
    if _team is not None:
        raise SettingsError("The processes have already joined.")
    team = _start(size)
    if team.rank:
        try:
            team.follow()
        except BaseException as error:
            team.fail(f"{type(error).__name__}: {error}")
            raise
        team.close()
        yield False
        return
    _team = team
    try:
        with _alone_in_sight():
            yield True
    except BaseException as error:
        # Steps are not left half-done by errors of the evaluation, only by their own.
        if team.is_broken or not isinstance(error, (EvaluationError, SystemExit)):
            team.fail(f"{type(error).__name__}: {error}")
        raise
    finally:
        _team = None
        team.end()


class Team:
    """The processes that share a model, as one of them sees it.

    Args:
        rank: This process; 0 leads.
        size: How many there are.
        ranks: Signs of life and failures.
        control: Group for what is said between steps; on the CPU.
        device: Where this process computes.
    """

    def __init__(
        self, rank: int, size: int, ranks: Ranks, control: Any, device: torch.device
    ) -> None:
        self.rank = rank
        self.size = size
        self.device = device
        self.is_broken = False
        """Whether a step was left half-done: nobody can go on."""
        self.num_loaded = 0
        """How many models were loaded; only the last one is there."""
        self._ranks = ranks
        self._control = control
        self._ended = threading.Event()
        threading.Thread(target=self._watch, daemon=True, name="longva-eval team").start()

    # What the leader says.

    def load(self, settings: Mapping[str, Any]) -> None:
        """Let the others load their part of a checkpoint; the leader loads its own meanwhile."""
        self.num_loaded += 1
        self.say_json(_LOAD, settings)

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Do not let the others wait for a leader that could not load its part."""
        before = self.num_loaded
        try:
            yield
        except BaseException as error:
            if self.num_loaded > before:
                self.fail(f"{type(error).__name__}: {error}")
            raise

    def loaded(self, checkpoint: Checkpoint) -> None:
        """All have loaded; make sure it was the same.

        Raises:
            CheckpointError: If processes found other weights.
            SettingsError: If more was divided than the language model.
        """
        found = self._ranks.share("weights", checkpoint.fingerprint)
        for name, weight in checkpoint.model.vision_parameters():
            if isinstance(weight, DTensor):  # a plan of another version of transformers
                raise SettingsError(
                    f"transformers divides {name} as well, and the vision tower runs on process 0 "
                    "alone here. Use device_map=auto."
                )
        if len(set(found)) > 1:
            raise CheckpointError(
                f"{checkpoint.source} holds other weights for some of the {self.size} processes "
                f"(fingerprints {', '.join(found)}). Do all machines see the same files?"
            )

    def shared(self, model: VisionLanguageModel) -> SharedModel:
        """The model that was loaded last, for `longva_eval.engine.prefix.PrefixEngine`."""
        return SharedModel(self, model)

    def end(self) -> None:
        """Let the others go. Never raises."""
        if self.is_broken:
            self._ranks.fail("a step was left half-done")
        else:
            with contextlib.suppress(Exception):
                self._say(_END)
        self.close()

    @contextmanager
    def step(self, command: int, *numbers: int) -> Iterator[None]:
        """One step that all processes compute.

        Raises:
            ResourceError: If memory is not enough in one of them.
            EvaluationError: If one of them failed.
        """
        if self.is_broken:
            raise EvaluationError("The processes that share the model cannot go on.")
        try:
            self._say(command, *numbers)
            yield
        except RuntimeError as error:
            self.is_broken = True
            if is_out_of_memory(error):
                raise ResourceError(
                    f"Memory is not enough on process {self.rank} of {self.size} ({error}). Start "
                    "again with smaller chunk_tokens, fewer frames (max_frames_num), or more "
                    "processes; what was answered is in the journal."
                ) from error
            self._explain(error)
        except BaseException:
            self.is_broken = True
            raise

    # What the others do.

    def follow(self) -> None:
        """Compute what the leader says, until it is done.

        Raises:
            EvaluationError: If a step fails here, or the leader is gone.
        """
        logger.remove()
        logger.add(sys.stderr, level="WARNING", format="{message}")
        part = None
        while True:
            command, *numbers = self._hear()
            if command == _END:
                return
            if command == _LOAD:
                part = None  # the last one goes before the next one comes
                part = _Part(self, self.hear_json(numbers[0]))
                self._ranks.share("weights", part.checkpoint.fingerprint)
            elif part is None:
                raise EvaluationError(f"Process {self.rank} was asked for a step before a model.")
            else:
                try:
                    part.compute(command, numbers)
                except RuntimeError as error:
                    if is_out_of_memory(error):
                        raise ResourceError(
                            f"Memory is not enough on process {self.rank} of {self.size} ({error})."
                        ) from error
                    self._explain(error)

    def send(self, tensor: torch.Tensor) -> None:
        """Give a tensor to the others."""
        distributed.broadcast(tensor.contiguous(), src=0)

    def receive(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """A tensor of the leader."""
        tensor = torch.empty(*shape, dtype=dtype, device=self.device)
        distributed.broadcast(tensor, src=0)
        return tensor

    def send_ids(self, ids: torch.Tensor) -> None:
        distributed.broadcast(ids.cpu().contiguous(), src=0, group=self._control)

    def receive_ids(self, count: int) -> torch.Tensor:
        ids = torch.empty(count, dtype=torch.int64)
        distributed.broadcast(ids, src=0, group=self._control)
        return ids.to(self.device)

    def fail(self, reason: str) -> None:
        """Tell the others that this process cannot go on. Never raises."""
        self.is_broken = True
        self._ranks.fail(reason)

    def close(self) -> None:
        """This process is done with the others."""
        self._ended.set()
        self._ranks.close()
        if not self.is_broken:
            distributed.destroy_process_group()

    def _say(self, command: int, *numbers: int) -> None:
        header = torch.tensor([command, *numbers, *[0] * (3 - len(numbers))])
        distributed.broadcast(header, src=0, group=self._control)

    def _hear(self) -> list[int]:
        header = torch.zeros(4, dtype=torch.int64)
        try:
            distributed.broadcast(header, src=0, group=self._control)
        except RuntimeError as error:
            self._explain(error)
        return [int(number) for number in header]

    def say_json(self, command: int, value: Mapping[str, Any]) -> None:
        data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        with self.step(command, len(data)):
            distributed.broadcast(data, src=0, group=self._control)

    def hear_json(self, size: int) -> dict[str, Any]:
        data = torch.empty(size, dtype=torch.uint8)
        distributed.broadcast(data, src=0, group=self._control)
        found: dict[str, Any] = json.loads(data.numpy().tobytes())
        return found

    def _explain(self, error: RuntimeError) -> None:
        """Raise what another process said, rather than that the connection to it is lost."""
        self.is_broken = True
        for _ in range(30):
            self._ranks.check()
            time.sleep(0.1)
        raise EvaluationError(
            f"Process {self.rank} of {self.size} lost the others ({error}). What was answered is "
            "in the journal: run the same command again."
        ) from error

    def _watch(self) -> None:
        """End this process where another one failed: it may wait in a step that never comes."""
        while not self._ended.wait(_WATCH_SECONDS):
            try:
                self._ranks.check()
                for other in range(self.size):
                    if other != self.rank:
                        self._ranks.check_alive(other)
            except EvaluationError as error:
                self.is_broken = True
                if not self._ended.wait(_GRACE_SECONDS):
                    print(f"longva-eval: {error}", file=sys.stderr, flush=True)
                    os._exit(1)


class _Part:
    """What a follower holds: its part of the weights and of the cache."""

    def __init__(self, team: Team, settings: dict[str, Any]) -> None:
        # Imported here: loading a checkpoint asks this module what can be divided.
        from longva_eval.model.attention import register_split_sdpa
        from longva_eval.model.checkpoint import load_part

        register_split_sdpa()
        self._team = team
        rope = settings.pop("rope")
        self.checkpoint = load_part(**settings, rope=None if rope is None else rope_from_json(rope))
        self._layers = [BufferLayer(0) for _ in range(self.checkpoint.config.num_hidden_layers)]
        self._cache = Cache(layers=self._layers)

    @torch.inference_mode()
    def compute(self, command: int, numbers: Sequence[int]) -> None:
        team, model = self._team, self.checkpoint.model
        if command == _ROPE:
            from longva_eval.model.checkpoint import change_rope

            rope = rope_from_json(team.hear_json(numbers[0]))
            self.checkpoint = change_rope(self.checkpoint, rope)
        elif command == _EMBED:
            model.model.embed_tokens(team.receive_ids(numbers[0]))
        elif command == _FORWARD:
            count, start, capacity = numbers
            hidden = team.receive((count, model.config.hidden_size), model.dtype)
            for layer in self._layers:
                if layer.length < start:
                    raise EvaluationError(
                        f"Process {team.rank} holds {layer.length} tokens, process 0 {start}."
                    )
                layer.length = start
                layer.reserve(capacity)
            run_layers(model, hidden, self._cache, start)
        elif command == _READ:
            model.lm_head(team.receive((numbers[0], model.config.hidden_size), model.dtype))
        else:
            raise EvaluationError(f"Process {team.rank} was told {command}, which is no step.")


class SharedModel:
    """A model as `PrefixEngine` uses it; each step is told to the processes that share it."""

    def __init__(self, team: Team, model: VisionLanguageModel) -> None:
        self.config = model.config
        self.dtype = model.dtype
        self.model = _SharedLayers(self, team, model)
        self._team = team
        self._inner = model
        self.size = team.size
        self._number = team.num_loaded

    def change_rope(self, rope: RopeSettings) -> None:
        """Let the other processes use other RoPE settings from now on."""
        self._require_last()
        self._team.say_json(_ROPE, asdict(rope))

    def lm_head(self, rows: torch.Tensor) -> torch.Tensor:
        with self.step(_READ, len(rows)):
            self._team.send(rows)
            logits: torch.Tensor = self._inner.lm_head(rows)
        return logits

    @contextmanager
    def step(self, command: int, *numbers: int) -> Iterator[None]:
        self._require_last()
        with self._team.step(command, *numbers):
            yield

    def _require_last(self) -> None:
        if self._number != self._team.num_loaded:
            raise EvaluationError(
                "Another model was loaded since: processes that share a model hold one at a time."
            )


class _SharedLayers:
    def __init__(self, owner: SharedModel, team: Team, model: VisionLanguageModel) -> None:
        self.embed_tokens = _SharedEmbedding(owner, team, model)
        self._owner = owner
        self._team = team
        self._inner = model

    def __call__(
        self,
        inputs_embeds: torch.Tensor,
        position_ids: torch.Tensor,
        past_key_values: Cache,
        use_cache: bool,
    ) -> Any:
        del position_ids, use_cache  # of a single prompt from the cache's end on
        embeddings = inputs_embeds[0]
        first = past_key_values.layers[0]
        start = first.get_seq_length()
        with self._owner.step(_FORWARD, len(embeddings), start, first.capacity):
            self._team.send(embeddings)
            return run_layers(self._inner, embeddings, past_key_values, start)


class _SharedEmbedding:
    def __init__(self, owner: SharedModel, team: Team, model: VisionLanguageModel) -> None:
        self.weight = model.model.embed_tokens.weight
        self._owner = owner
        self._team = team
        self._inner = model

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        with self._owner.step(_EMBED, len(ids)):
            self._team.send_ids(ids)
            embeddings: torch.Tensor = self._inner.model.embed_tokens(ids)
        return embeddings


def run_layers(
    model: VisionLanguageModel, embeddings: torch.Tensor, cache: Cache, start: int
) -> Any:
    """The language model's output for embeddings (new_tokens, hidden_size) from `start` on."""
    positions = torch.arange(start, start + embeddings.shape[0], device=embeddings.device)
    return model.model(
        inputs_embeds=embeddings.unsqueeze(0),
        position_ids=positions.unsqueeze(0),
        past_key_values=cache,
        use_cache=True,
    )


def rope_from_json(values: Mapping[str, Any]) -> RopeSettings:
    """Settings whose tuples became lists on the way."""
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }
    return RopeSettings(**fields)


_team: Team | None = None


def _start(size: int) -> Team:
    """Begin torch.distributed for a team of all processes."""
    given = {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR")}
    if None in given.values() or int(given["WORLD_SIZE"] or 0) != size:
        raise SettingsError(
            f"tensor_parallel={size} needs {size} processes, and "
            f"{given['WORLD_SIZE'] or '1'} were started: torchrun --nproc-per-node {size} "
            "-m longva_eval ... Several teams in one run are not possible: give each its share of "
            "the tasks and its own command."
        )
    rank, local = int(given["RANK"] or 0), int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        local_size = int(os.environ.get("LOCAL_WORLD_SIZE", size))
        if local_size > torch.cuda.device_count():
            raise SettingsError(
                f"{local_size} processes share a model on this machine, which has "
                f"{torch.cuda.device_count()} GPUs; each needs its own."
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    if not distributed.is_initialized():
        distributed.init_process_group(
            backend="gloo" if device.type == "cpu" else "nccl", timeout=_STEP_LIMIT
        )
    control = distributed.new_group(backend="gloo", timeout=_IDLE_LIMIT)
    # As in longva_eval.running.ranks.current_ranks: the store that the processes already share.
    store = distributed.distributed_c10d._get_default_store()
    ranks = Ranks(
        rank,
        size,
        distributed.PrefixStore("longva_eval/team", store),  # type: ignore[attr-defined]
        silent_seconds=_SILENT_SECONDS,
    )
    return Team(rank, size, ranks, control, device)


@contextmanager
def _alone_in_sight() -> Iterator[None]:
    """Let lmms-eval and accelerate, which look for other processes, find none.

    They read the launcher's variables; and lmms-eval calls a barrier wherever torch.distributed
    was started, in which the others, who run no lmms-eval, would never arrive.
    """
    hidden = {name: os.environ.pop(name) for name in _HIDDEN_NAMES if name in os.environ}
    barrier = distributed.barrier
    distributed.barrier = lambda *_, **__: None  # type: ignore[assignment]
    try:
        yield
    finally:
        distributed.barrier = barrier
        os.environ.update(hidden)
