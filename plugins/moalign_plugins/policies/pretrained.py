"""Any causal language model by name or folder, with its chat template and optional LoRA."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

from annotated_types import Ge, MinLen
from pydantic import BaseModel, ConfigDict

from moalign.components import LoadedPolicy, PolicySource, Task
from moalign.errors import DataError, OptionError
from moalign.types import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# The one place that decides whether code inside a model's repository may run: never.
TRUST_REMOTE_CODE: Final = False
POINTER: Final = "base.json"
ADAPTER: Final = "adapter"
CONFIG: Final = "config.json"
LAYERS: Final = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")  # by kind of model


class Lora(BaseModel):
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685): W + alpha/rank * B A; B starts at 0.

    Attributes:
        rank: rank of the update.
        alpha: its scale, divided by the rank.
        targets: names of the layers that get one; ``all-linear`` is all but the output layer.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    rank: Annotated[int, Ge(1)] = 16
    alpha: Annotated[int, Ge(1)] = 32
    targets: Literal["all-linear"] | Annotated[tuple[str, ...], MinLen(1)] = "all-linear"


class Pretrained(PolicySource):
    """A causal language model that exists, loaded through ``transformers``.

    A prompt becomes a user message if the tokenizer has a chat template, or the messages that it is
    a transcript of; else plain text. With ``condition: weights`` the objectives' weights stand
    before it (before the last message), as in ``accuracy 0.60, brevity 0.40``. A completion ends at
    the tokenizer's end token or at any other that the model's generation settings name. Only
    safetensors are read, and no code that comes with a model is run.

    What does not fit into the model's context (``max_position_embeddings``) is left out with a
    warning, never cut: prompts with ``rollout.max_tokens`` to come, and preferences.

    Full training keeps a frozen copy of the model if something needs the reference policy; with
    LoRA (extra ``moalign[lora]``) the adapter is switched off instead, checkpoints hold the
    adapter only, and exports are merged.

    Example:
        ``policy: {pretrained: {model: Qwen/Qwen2.5-0.5B-Instruct, lora: {rank: 16}}}``
    """

    name: ClassVar[str] = "pretrained"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"model": "Qwen/Qwen2.5-0.5B-Instruct"},
        {"model": "Qwen/Qwen2.5-0.5B-Instruct", "lora": {"rank": 16}, "condition": "weights"},
    )

    def __init__(
        self,
        *,
        model: Annotated[str, MinLen(1)],
        revision: str | None = None,
        lora: Lora | None = None,
        condition: Literal["none", "weights"] = "none",
        system: str | None = None,
    ) -> None:
        """Take the options.

        Args:
            model: a folder, or a name on the Hugging Face hub.
            revision: a branch, tag or commit on the hub; default its main branch.
            lora: train low-rank adapters instead of all weights.
            condition: ``weights`` writes the objectives' weights into each prompt.
            system: the system message, unless a prompt brings its own, or without a chat template
                text before each prompt.
        """
        self.model = model
        self.revision = revision
        self.lora = lora
        self.condition = condition
        self.system = system
        self.has_lora = lora is not None

    def depth(self) -> int | None:
        """Return the layers that the folder's ``config.json`` names; None for a name on the hub."""
        try:
            config = json.loads((Path(self.model).expanduser() / CONFIG).read_text("utf-8"))
            found = next((config[key] for key in LAYERS if key in config), None)
        except (OSError, ValueError, TypeError):  # building says what is wrong with it
            return None
        return found if isinstance(found, int) else None

    def recipe(self, task: Task, seed: int, objectives: Sequence[str]) -> Mapping[str, Any]:
        """Return the model's identity (a folder's content, a hub name and revision) and options.

        Raises:
            DataError: if ``model`` is a path to a folder that does not exist.
        """
        folder = self._folder()
        model = (
            {"name": self.model, "revision": self.revision}
            if folder is None
            else {"sha256": _digest(folder)}
        )
        return {
            "policy": self.name,
            "model": model,
            "lora": None if self.lora is None else self.lora.model_dump(mode="json"),
            "condition": self.condition,
            "system": self.system,
            "seed": None if self.lora is None else seed,
        }

    def build(
        self,
        task: Task,
        seed: int,
        objectives: Sequence[str],
        folder: Path,
        progress: Callable[[float, str], None],
    ) -> None:
        """Write which model it is, and with LoRA the untrained adapter; the model stays put.

        Raises:
            DataError: if the model cannot be loaded.
            OptionError: if ``lora`` names layers the model does not have, or peft is missing.
        """
        progress(0.0, f"loading {self.model}")
        model, tokenizer = self._load(self.revision)
        self._check(tokenizer)
        commit = getattr(model.config, "_commit_hash", None)
        pointer = {"model": self.model, "revision": commit or self.revision}
        (folder / POINTER).write_text(json.dumps(pointer, indent=2) + "\n", encoding="utf-8")
        if self.lora is not None:
            progress(0.5, "making the adapter")
            _adapted(model, self.lora, seed).save_pretrained(folder / ADAPTER)
        progress(1.0, f"{self.model} is ready")

    def load(self, folder: Path, objectives: Sequence[str]) -> LoadedPolicy:
        """Load the model, at the revision that was built from, and with LoRA attach the adapter.

        Raises:
            DataError: if the model cannot be loaded.
        """
        pointer = json.loads((folder / POINTER).read_text(encoding="utf-8"))
        model, tokenizer = self._load(pointer["revision"])
        end_ids = _end_ids(model, tokenizer)
        if not end_ids:
            raise DataError(
                f"policy pretrained: neither the tokenizer nor the generation settings of "
                f"{self.model} name an end token, so no completion could end; set eos_token in "
                "its tokenizer_config.json"
            )
        if self.lora is not None:
            import torch
            from peft import PeftModel

            # It draws weights before it reads them.
            with torch.random.fork_rng(devices=[]), _without_peft_warning():
                adapter: Any = PeftModel.from_pretrained(model, folder / ADAPTER, is_trainable=True)
            model = adapter
        pad_id = tokenizer.pad_token_id
        return LoadedPolicy(
            model=model,
            tokenizer=tokenizer,
            render=lambda prompt, condition: self._render(tokenizer, prompt, condition),
            end_ids=end_ids,
            # Any token will do: padding is known by lengths, never by comparing ids.
            pad_id=min(end_ids) if pad_id is None else pad_id,
            speaks=self._speaks(tokenizer, objectives),
        )

    def _folder(self) -> Path | None:
        """Return the model's folder, or None if ``model`` is a name on the hub."""
        folder = Path(self.model).expanduser()
        if folder.is_dir():
            return folder
        if self.model.startswith((".", "~", "/")) or len(folder.parts) > 2:
            raise DataError(
                f"policy pretrained: there is no folder {self.model}; give the folder of a saved "
                "model or a name on the Hugging Face hub, such as Qwen/Qwen2.5-0.5B-Instruct"
            )
        return None

    def _load(self, revision: str | None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        folder = self._folder()
        source = str(folder or self.model)
        common: dict[str, Any] = {"trust_remote_code": TRUST_REMOTE_CODE}
        if folder is None:
            common["revision"] = revision or "main"
        try:
            model = AutoModelForCausalLM.from_pretrained(
                source, dtype="auto", use_safetensors=True, **common
            )
            tokenizer = AutoTokenizer.from_pretrained(source, **common)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:300].rstrip(".")
            place = (
                f"folder {source} cannot be loaded"
                if folder is not None
                else f"{source} is not a folder here, and cannot be loaded from the hub"
            )
            raise DataError(
                f"policy pretrained: {place}: {reason}. It takes causal language models with "
                "weights in safetensors and no code of their own"
            ) from error
        return model, tokenizer

    def _check(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Render a prompt, so that a template that refuses does so before any training."""
        try:
            self._render(tokenizer, Prompt(id="check", text="check"), None)
        except DataError as error:
            raise OptionError(
                f"{error}; some take no system message: leave `system` out", "system"
            ) from error

    def _render(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompt: Prompt,
        condition: Mapping[str, float] | None,
    ) -> list[int]:
        """Return the token ids of a prompt; training, evaluation and exports all come by here."""
        text = prompt.text
        if condition is not None:
            text = f"{_weights_line(condition)}\n{text}"
        if tokenizer.chat_template is None:
            whole = text if self.system is None else f"{self.system}\n\n{text}"
            return list(tokenizer(whole)["input_ids"])
        from jinja2 import TemplateError

        messages = [dict(message) for message in prompt.messages]
        if not messages:
            messages = [{"role": "user", "content": text}]
        elif condition is not None:
            messages[-1]["content"] = f"{_weights_line(condition)}\n{messages[-1]['content']}"
        if self.system is not None and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": self.system})
        try:
            ids: Any = tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, return_dict=False
            )
        except TemplateError as error:
            roles = ", ".join(message["role"] for message in messages)
            raise DataError(
                f"policy pretrained: the chat template of {self.model} refuses the prompt "
                f"({error}); the roles of prompt {prompt.id!r} are {roles}"
            ) from error
        return list(ids)

    def _speaks(self, tokenizer: PreTrainedTokenizerBase, objectives: Sequence[str]) -> str:
        form = "plain text" if tokenizer.chat_template is None else "a user message in a chat"
        sentence = f"Trained from {self.model}. A prompt is {form}"
        if self.condition == "weights":
            equal = _weights_line(dict.fromkeys(objectives, 1.0 / len(objectives)))
            sentence += f", after a line with the weights, such as `{equal}`"
        return f"{sentence}."


def _weights_line(condition: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {weight:.2f}" for name, weight in condition.items())


def _end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    found = getattr(model.generation_config, "eos_token_id", None)
    several = found if isinstance(found, list) else [found]
    return frozenset(i for i in (tokenizer.eos_token_id, *several) if i is not None)


def _adapted(model: PreTrainedModel, lora: Lora, seed: int) -> Any:
    """Return the model with a fresh adapter: a function of the model, the options and the seed."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise OptionError(
            "policy pretrained: `lora` needs peft; run: pip install 'moalign[lora]'", "lora"
        ) from error
    import torch
    from transformers.pytorch_utils import Conv1D

    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules="all-linear" if lora.targets == "all-linear" else list(lora.targets),
        fan_in_fan_out=any(isinstance(layer, Conv1D) for layer in model.modules()),  # GPT-2
    )
    with torch.random.fork_rng(devices=[]), _without_peft_warning():
        torch.manual_seed(seed)
        try:
            return get_peft_model(model, config)
        except ValueError as error:
            raise OptionError(
                f"policy pretrained: lora.targets {list(lora.targets)} do not fit the model "
                f"({error}); leave it out to adapt all linear layers",
                "lora",
            ) from error


@contextmanager
def _without_peft_warning() -> Iterator[None]:
    """Hide that peft reads a property that transformers has renamed; nobody here can mend it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")
        yield


def _digest(folder: Path) -> str:
    """Return the SHA-256 of a folder's files, names included, hidden ones left out."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in name.parts):
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            total.update(f"{name.as_posix()} {content}\n".encode())
    return total.hexdigest()
