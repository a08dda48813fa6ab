"""Ways to predict durations, each trained for the same tokens and the same alignments.

    python tests/benchmarks/durations.py [--voice FOLDER] [--steps 400] [--pairs 660] [--json]

A finished voice says what the tokens of each training pair are and how long the alignment makes them; both stay as they
are, so the predictors differ in nothing but themselves, and train in seconds. Each predictor then says the durations of
the dev pairs, once for every way of rounding and with and without the longest duration that the published code allows.

``ratio`` is all frames predicted over all frames of the targets, ``error s`` the mean absolute difference of the length
of a pair in seconds, ``token error`` that of a token from what the alignment found, in frames. Stochastic predictors
are asked three times.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aasvc_cli.config.reading import override, to_tree
from aasvc_cli.conversion.voice import Voice, load_voice
from aasvc_cli.data.dataset import Batch, PairDataset, collate, epoch_batches
from aasvc_cli.data.manifest import read_manifest
from aasvc_cli.features.kinds import feature_key
from aasvc_cli.features.store import FeatureStore
from aasvc_cli.model.aasvc import AASVC, TeacherForced
from aasvc_cli.model.alignment import monotonic_search, path_durations
from aasvc_cli.model.duration import StochasticDurationPredictor
from aasvc_cli.model.layers import padding_mask
from aasvc_cli.storage.home import Home, bundled, find_home
from aasvc_cli.training.losses import duration_loss

PREDICTORS: dict[str, dict[str, Any]] = {
    "stochastic, untrained branch": {"duration_predictor": "stochastic", "duration_input": "feature"},
    "stochastic, tokens": {"duration_predictor": "stochastic", "duration_input": "tokens"},
    "deterministic, trained branch": {"duration_predictor": "deterministic", "duration_input": "feature"},
    "deterministic, tokens": {"duration_predictor": "deterministic", "duration_input": "tokens"},
    "poisson, trained branch": {"duration_predictor": "poisson", "duration_input": "feature"},
    "poisson, tokens": {"duration_predictor": "poisson", "duration_input": "tokens"},
}  # fmt: skip
"""The first is the published one."""
ROUNDINGS = {"stochastic": ("ceil",), "deterministic": ("nearest", "cumulative"), "poisson": ("nearest", "cumulative")}
DRAWS = 3


@dataclass(frozen=True)
class Known:
    """What a predictor is trained on: one batch, and what the voice makes of it."""

    batch: Batch
    tokens: Tensor
    """(B, K, D)"""
    token_lengths: Tensor
    """(B,)"""
    durations: Tensor
    """(B, K)"""


def known(voice: Voice, batch: Batch) -> Known:
    """Tokens and alignment of a batch, without dropout."""
    model = voice.model
    with torch.no_grad():
        tokens, lengths = model._encode(batch.source, batch.source_lengths)
        padding = padding_mask(lengths, tokens.shape[1])
        frame_padding = padding_mask(batch.target_lengths, batch.target.shape[1])
        alignment = model.aligner(tokens, batch.target, padding, frame_padding)
        path = monotonic_search(alignment, batch.target_lengths, lengths)
        return Known(batch, tokens, lengths, path_durations(path, frame_padding, tokens.shape[1]))


def loss_of(model: AASVC, what: Known) -> Tensor:
    """The loss that training has for the durations."""
    inputs = model._duration_inputs(
        what.tokens, what.batch.duration_feature, what.batch.source_lengths, what.token_lengths
    )
    padding = padding_mask(what.token_lengths, what.tokens.shape[1])
    nll = log_durations = log_expected = None
    if isinstance(model.duration_predictor, StochasticDurationPredictor):
        nll = model.duration_predictor.nll(inputs, what.durations, padding) / what.token_lengths.sum()
    elif model.config.duration_predictor == "poisson":
        log_expected = model.duration_predictor(inputs, padding)
    else:
        log_durations = model.duration_predictor(inputs, padding).masked_fill(padding, 0.0)
    unused = torch.empty(0)
    return duration_loss(
        TeacherForced(
            before=unused, after=unused, target=unused, frame_padding=unused, log_alignment=unused, path=unused,
            durations=what.durations, token_lengths=what.token_lengths, target_lengths=what.batch.target_lengths,
            duration_nll=nll, log_durations=log_durations, log_expected=log_expected,
        )
    )  # fmt: skip


def trained(voice: Voice, changes: dict[str, Any], data: Sequence[Known], steps: int, rate: float) -> AASVC:
    """The voice with a predictor of its own; encoder, aligner and decoder stay the same."""
    torch.manual_seed(1)
    config = override(voice.config, {"model.duration_rounding": "ceil"})
    config = override(config, {f"model.{key}": value for key, value in changes.items()})
    model = AASVC(config.model)
    own = {name for name in model.state_dict() if name.startswith("duration_")}
    state = {name: tensor for name, tensor in voice.model.state_dict().items() if not name.startswith("duration_")}
    model.load_state_dict({**state, **{name: model.state_dict()[name] for name in own}})
    parameters = [parameter for name, parameter in model.named_parameters() if name in own]
    optimizer = torch.optim.Adam(parameters, lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    model.train()
    for step in range(steps):
        optimizer.zero_grad()
        loss_of(model, data[step % len(data)]).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def measured(model: AASVC, data: Sequence[Known], frames_per_second: float) -> dict[str, float]:
    """Predicted against real durations of pairs, one pair in each batch."""
    draws = DRAWS if model.config.duration_predictor == "stochastic" else 1
    predicted = wanted = 0
    errors, token_errors = [], []
    for what in data:
        for draw in range(draws):
            generator = torch.Generator().manual_seed(draw)
            with torch.no_grad():
                feature = what.batch.duration_feature[0]
                _, durations = model._rhythm(what.batch.source[0], feature, None, None, generator, 1.0)
            length, real = int(durations.sum()), int(what.batch.target_lengths[0])
            predicted, wanted = predicted + length, wanted + real
            errors.append(abs(length - real) / frames_per_second)
            token_errors.append(float((durations - what.durations).abs().mean()))
    return {
        "ratio": round(predicted / wanted, 4),
        "error_s": round(statistics.mean(errors), 4),
        "token_error": round(statistics.mean(token_errors), 3),
    }


def settings(predictor: str) -> Iterator[dict[str, Any]]:
    """What can be chosen at conversion."""
    for rounding in ROUNDINGS[predictor]:
        for longest in (10, None):
            yield {"duration_rounding": rounding, "max_duration": longest}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voice", type=Path, default=bundled("voice"))
    parser.add_argument("--home", type=Path, help="data folder with a prepared set; that of the program by default")
    parser.add_argument("--data", help="prepared set; the one prepared last by default")
    parser.add_argument("--pairs", type=int, default=660, help="the first so many training pairs")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--only", action="append", choices=list(PREDICTORS), help="these predictors")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    home = Home(arguments.home) if arguments.home else find_home()
    voice = load_voice(arguments.voice)
    manifest = read_manifest(home, arguments.data)
    store = FeatureStore(home.features, voice.config.features, feature_key)
    pairs = PairDataset(manifest.sets["train"][: arguments.pairs], store.load, voice.stats)
    dev = PairDataset(manifest.sets["dev"], store.load, voice.stats)
    lengths = [pair.target_frames for pair in pairs.pairs]
    batches = epoch_batches(lengths, 8, seed=1, epoch=0, bucket=True)
    data = [known(voice, collate([pairs[i] for i in batch])) for batch in batches]
    held_out = [known(voice, collate([dev[i]])) for i in range(len(dev))]
    rows = []
    print("| predictor | rounding | longest | ratio | error s | token error | CPU s |")
    print("|---|---|---|---|---|---|---|")
    for name in arguments.only or PREDICTORS:
        changes = PREDICTORS[name]
        began = time.process_time()
        model = trained(voice, changes, data, arguments.steps, arguments.lr)
        seconds = time.process_time() - began
        for chosen in settings(changes["duration_predictor"]):
            tree = {f"model.{key}": value for key, value in {**to_tree(model.config), **chosen}.items()}
            model.config = override(voice.config, tree).model
            found = measured(model, held_out, voice.config.features.mel.frames_per_second)
            rows.append({"predictor": name, **chosen, **found, "seconds": round(seconds, 1)})
            longest = chosen["max_duration"] or "–"
            cells = [name, chosen["duration_rounding"], longest, *found.values(), round(seconds, 1)]
            print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)
    if arguments.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
