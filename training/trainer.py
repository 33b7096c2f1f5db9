"""The training run: steps, checkpoints, the log, and the exported model."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GenerationConfig

from opsearch.data.demo import MODEL_DIR
from training import model as llava
from training.batches import NAMES, Batch
from training.feed import Feed
from training.heads import LAST, Heads
from training.losses import answer_loss, picture_loss, place_loss
from training.optimiser import Optimiser
from training.options import CHECKPOINT, Options
from training.packing import IDS
from training.processes import ProcessGroup
from training.schedule import FamilyWeights

SAVE_EVERY = 180.0  # seconds
LOG_EVERY = 50  # steps
# Files that are the same for every model of this vocabulary and picture size.
_UNTRAINED = (
    "chat_template.jinja",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
)


def train(options: Options, group: ProcessGroup) -> None:
    """Train a model, as one of the processes of a group, and export it."""
    trainer = Trainer(options, group)
    trainer.run()
    if group.rank == 0:
        export(trainer.model, options.out / "model")


def export(model: Any, folder: Path) -> None:
    """Write the model as a Hugging Face folder, with all files needed to use it except the card."""
    model.generation_config = GenerationConfig(
        bos_token_id=IDS["<bos>"],
        eos_token_id=IDS["<eos>"],
        pad_token_id=IDS["<pad>"],
        do_sample=False,
        max_new_tokens=8,
    )
    model.to("cpu", torch.bfloat16).save_pretrained(folder)
    name_tower(folder / "model.safetensors")
    for name in _UNTRAINED:
        shutil.copyfile(MODEL_DIR / name, folder / name)


def name_tower(file: Path) -> None:
    """Give the tensors of the vision tower the names that vLLM loads, too.

    transformers reads names with and without `vision_model`, and writes those without.
    """
    tensors = {
        re.sub(r"^vision_tower\.(?!vision_model\.)", "vision_tower.vision_model.", name): tensor
        for name, tensor in load_file(file).items()
    }
    save_file(tensors, file, metadata={"format": "pt"})
    file.chmod(0o644)  # save_pretrained restricts it to its owner


class Trainer:
    """A model in training, in one of the processes of a group."""

    def __init__(self, options: Options, group: ProcessGroup) -> None:
        self.options, self.group = options, group
        self.device = torch.device(options.device)
        model = llava.load(options.start) if options.start else llava.build(options.seed)
        self.model = model.to(self.device, torch.bfloat16).train()
        self.heads = Heads().to(self.device, torch.bfloat16)
        named = {**dict(self.model.named_parameters()), **_prefixed(self.heads)}
        self.optimiser = Optimiser(named.items())
        self.families = FamilyWeights()
        self.feed = Feed(
            options.schedule,
            [options.seed, group.rank],
            options.pictures // group.size,
            options.slots,
            options.workers,
        )
        self.step, self.seconds = 0, 0.0
        llava.prepare(self.model, options.compiled)

    def run(self) -> None:
        """Train to the end of the schedule, from the last checkpoint if there is one."""
        self._resume()
        saved, before = time.monotonic(), self.seconds - self._cpu_seconds()
        for batch in self.feed.batches(self.step):
            loss = self.learn(batch.to(self.device))
            self.seconds = before + self._cpu_seconds()
            if self.step % LOG_EVERY == 0:
                self._log(float(loss))
            if time.monotonic() - saved > SAVE_EVERY:
                saved = time.monotonic()
                self.save()
        self.save()

    def learn(self, batch: Batch) -> Tensor:
        """Take one step and return its loss."""
        asks = self.options.schedule.asks(self.step)
        loss, counts = self._ask(batch) if asks else self._look(batch)
        loss.backward()
        gradients = {}
        for name, parameter in self.optimiser.parameters.items():
            if parameter.grad is not None:
                gradients[name] = parameter.grad.float()
                parameter.grad = None
        counts = self.group.average(gradients, counts)
        if asks:
            self.families.update(counts.cpu() * self.group.size)
            self.feed.weights.copy_(self.families.weights())
        self.optimiser.step(gradients, self.options.schedule.factor(self.step))
        self.step += 1
        return loss.detach()

    def _look(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the loss on pictures without questions."""
        cls, visual = llava.see(self.model, batch.pixels.bfloat16())
        states = llava.read(self.model, visual, None, LAST)
        predicted = self.heads(cls, states, batch.scene, 0)
        return picture_loss(predicted, batch), torch.zeros(2, len(NAMES), device=self.device)

    def _ask(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the loss on pictures and questions, and per family the counts (right, asked)."""
        cls, visual = llava.see(self.model, batch.pixels.bfloat16())
        states = llava.read(self.model, visual, batch.tokens)
        predicted = self.heads(cls, states, batch.scene, self.options.slots)
        loss, right = answer_loss(self.model, states[-1], batch)
        auxiliary = picture_loss(predicted, batch) + 0.5 * place_loss(predicted, batch)
        loss = loss + self.options.auxiliary * auxiliary
        counts = torch.zeros(2, len(NAMES), device=self.device)
        counts[0].index_add_(0, batch.family.flatten(), right.float().flatten())
        counts[1].index_add_(0, batch.family.flatten(), torch.ones_like(right).float().flatten())
        return loss, counts

    def _cpu_seconds(self) -> float:
        return time.process_time() * self.group.size

    def _log(self, loss: float) -> None:
        rate = self.options.schedule.factor(self.step)
        line = f"step {self.step:5}  {self.seconds:6.0f} CPU s  rate {rate:.2f}  loss {loss:.3f}"
        if self.options.schedule.asks(self.step):
            accuracy = self.families.accuracy()
            pairs = zip(NAMES, accuracy.tolist(), strict=True)
            line += f"  mean {float(accuracy.mean()):.3f}: "
            line += " ".join(f"{name} {value:.2f}" for name, value in pairs)
        self.group.say(line)

    def save(self) -> None:
        """Write a checkpoint atomically: tensors and numbers only."""
        if self.group.rank > 0:
            return
        checkpoint = self.options.out / CHECKPOINT
        partial = checkpoint.with_suffix(".partial")
        state = {
            "optimiser": self.optimiser.state(),
            "families": torch.stack([self.families.right, self.families.asked]),
            "step": self.step,
            "seconds": self.seconds,
        }
        torch.save(state, partial)
        partial.replace(checkpoint)

    def _resume(self) -> None:
        checkpoint = self.options.out / CHECKPOINT
        if checkpoint.exists():
            state = torch.load(checkpoint, weights_only=True, map_location=self.device)
            self.optimiser.load(state["optimiser"])
            self.families.right, self.families.asked = state["families"].cpu().unbind()
            self.feed.weights.copy_(self.families.weights())
            self.step, self.seconds = state["step"], state["seconds"]
            self.group.say(f"resumed at step {self.step}")


def _prefixed(heads: Heads) -> dict[str, torch.nn.Parameter]:
    return {f"heads.{name}": parameter for name, parameter in heads.named_parameters()}
