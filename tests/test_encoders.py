"""Encoders of sound: front ends and blocks against slow references and libraries, files, and published names."""

import importlib.util
import json
import pickle
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import librosa
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from auscult import encoderfile
from auscult.conversion import convert
from auscult.errors import AuscultError
from auscult.nn.encoders import KINDS, Encoder, token_map
from auscult.nn.encoders.beats import _GatedAttention, distance_classes
from auscult.nn.encoders.ced import CED
from auscult.nn.encoders.fbank import fbank, mel_centres
from auscult.nn.encoders.tokens import window_starts
from conftest import machine_sound

RATE = 16_000
SMALL: dict[str, dict[str, int]] = {
    "beats": {"patch_width": 16, "reach": 8, "groups": 4, "buckets": 32, "farthest": 80, "frames": 160},
    "ced": {"frames": 160},
    "eat": {"frames": 160},
    "ast": {"frames": 156},
}
needs_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="transformers is not installed"
)
EVERY = [pytest.param(kind, marks=needs_transformers if kind == "ast" else ()) for kind in KINDS]
each = pytest.mark.parametrize("kind", EVERY)


def small(kind: str, layer: int = 2, seed: int = 0) -> Encoder:
    """An encoder of two blocks with numbers drawn at random, norms and biases included."""
    torch.manual_seed(seed)
    encoder = KINDS[kind](KINDS[kind].sizes_class(width=32, depth=2, heads=4, feed_forward=48, **SMALL[kind]), layer)
    for name, tensor in encoder.state_dict().items():
        if tensor.is_floating_point():
            tensor.add_(0.1 * torch.rand(tensor.shape) if name.endswith("var") else 0.1 * torch.randn(tensor.shape))
    if isinstance(encoder, CED):
        encoder.init_bn.running_mean -= 40
        encoder.init_bn.running_var *= 400
    return encoder.eval().requires_grad_(False)


def saved(kind: str, folder: Path, seed: int = 0) -> Path:
    encoder = small(kind, seed=seed)
    path = folder / f"{kind}.safetensors"
    encoderfile.write(path, kind, encoder.sizes, encoder.state_dict())
    return path


def wave(seconds: float = 2.0, seed: int = 3) -> torch.Tensor:
    return torch.from_numpy(machine_sound(seed, seconds=seconds).astype(np.float32))


# Front ends -------------------------------------------------------------------------------------------------


def slow_fbank(samples: np.ndarray, n_mels: int, shape: np.ndarray) -> np.ndarray:
    """Kaldi's energies by its documentation, a frame and a filter at a time."""
    rows = []
    mel = 1127 * np.log(1 + np.fft.rfftfreq(512, 1 / RATE)[:-1] / 700)
    corners = np.linspace(1127 * np.log(1 + 20 / 700), 1127 * np.log(1 + 8000 / 700), n_mels + 2)
    for start in range(0, len(samples) - 399, 160):
        frame = samples[start : start + 400].astype(np.float64)
        frame = frame - frame.mean()
        raised = frame.copy()
        for i in range(400):
            raised[i] -= 0.97 * frame[max(i - 1, 0)]
        power = np.abs(np.fft.rfft(raised * shape, 512)[:-1]) ** 2
        row = []
        for low, middle, high in zip(corners[:-2], corners[1:-1], corners[2:], strict=True):
            triangle = np.interp(mel, [low, middle, high], [0, 1, 0])
            row.append(np.log(max(power @ triangle, np.finfo(np.float32).eps)))
        rows.append(row)
    return np.array(rows)


def test_energies_are_kaldis() -> None:
    samples = machine_sound(4, seconds=0.2).astype(np.float32)
    hann = np.hanning(400)
    tensor = torch.from_numpy(samples)
    np.testing.assert_allclose(fbank(tensor, 128, "hanning"), slow_fbank(samples, 128, hann), atol=1e-4)
    np.testing.assert_allclose(fbank(tensor, 128, "povey"), slow_fbank(samples, 128, hann**0.85), atol=1e-4)


@needs_transformers
def test_what_ast_hears_is_what_the_package_hears() -> None:
    from transformers import ASTFeatureExtractor

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the lowest of its filters hold no bin
        theirs = ASTFeatureExtractor(max_length=1024)(wave(3).numpy(), sampling_rate=RATE)["input_values"][0]
    ast = small("ast")
    ours = ast.filled(ast.spectrogram(wave(3)), 1024)
    np.testing.assert_allclose(ours, theirs, atol=2e-4)


def test_what_ced_hears_is_a_mel_spectrogram_by_its_batch_norm() -> None:
    ced = small("ced")
    assert isinstance(ced, CED)
    power = librosa.feature.melspectrogram(
        y=wave().numpy(), sr=RATE, n_fft=512, hop_length=160, n_mels=64, htk=True, norm=None, pad_mode="reflect"
    )
    levels = librosa.power_to_db(power, amin=1e-10, top_db=120).T
    bn = ced.init_bn
    assert bn.running_mean is not None
    assert bn.running_var is not None
    wanted = (levels - bn.running_mean.numpy()) / np.sqrt(bn.running_var.numpy() + bn.eps)
    np.testing.assert_allclose(ced.spectrogram(wave()), wanted * bn.weight.numpy() + bn.bias.numpy(), atol=1e-3)


def test_the_other_front_ends_are_normalised_as_published() -> None:
    samples = wave()
    beats = (fbank(samples * 32768, 128, "povey") - 15.41663) / (2 * 6.55582)
    np.testing.assert_allclose(small("beats").spectrogram(samples), beats, atol=1e-4)
    eat = small("eat")
    np.testing.assert_allclose(
        eat.spectrogram(samples + 0.1), (fbank(samples, 128, "hanning") + 4.268) / 9.138, atol=1e-3
    )
    filled = eat.filled(torch.zeros(3, 128), 5)
    np.testing.assert_allclose(filled[3:], 4.268 / 9.138, rtol=1e-6)


# Tokens -----------------------------------------------------------------------------------------------------


@each
@pytest.mark.parametrize("seconds", [0.04, 0.5, 1.6, 1.7, 4.0])
def test_every_moment_is_heard_once(kind: str, seconds: float) -> None:
    encoder = small(kind)
    heard = token_map(encoder, wave(seconds))
    sizes = encoder.sizes
    assert heard.tokens.shape == (len(heard.seconds), sizes.n_bands, 32)
    assert heard.tokens.isfinite().all()
    steps = heard.seconds.diff()
    stride = 0.01 * sizes.time_stride
    assert (steps > 0).all()
    # Where two windows meet, a few frames that fill no patch may be left out.
    assert (steps < 2.1 * stride).all()
    assert 0 < heard.seconds[0] <= max(stride, 0.1)
    assert heard.seconds[-1] > seconds - stride - 0.15


def test_windows_lie_end_to_end() -> None:
    assert window_starts(100, 100) == [0]
    assert window_starts(30, 100) == [0]
    assert window_starts(101, 100) == [0, 1]
    assert window_starts(200, 100) == [0, 100]
    assert window_starts(250, 100) == [0, 100, 150]


@each
def test_a_long_clip_is_its_windows(kind: str) -> None:
    encoder = small(kind)
    samples = wave(4.0)
    spectrogram = encoder.spectrogram(samples)
    first = encoder.tokens(spectrogram[: encoder.sizes.frames])
    np.testing.assert_array_equal(token_map(encoder, samples).tokens[: len(first)], first)


@each
def test_a_tone_is_in_its_band(kind: str) -> None:
    """Before the first block, in the tokens of the patches themselves, only the band of a tone changes much."""
    encoder = small(kind, layer=0)
    assert encoder.band_edges().shape == (encoder.sizes.n_bands, 2)
    time = np.arange(2 * RATE) / RATE
    quiet = 1e-3 * np.random.default_rng(0).standard_normal(2 * RATE)
    if kind == "beats":  # its convolution and norms mix bands, but the own remains the loudest
        encoder.encoder.pos_conv.weight.zero_()  # type: ignore[union-attr, operator]
    plain = token_map(encoder, torch.from_numpy(quiet.astype(np.float32))).tokens
    for band, (low, high) in enumerate(encoder.band_edges()):
        tone = quiet + 0.01 * np.sin(2 * np.pi * (low * high) ** 0.5 * time)
        changed = (token_map(encoder, torch.from_numpy(tone.astype(np.float32))).tokens - plain).square().mean((0, 2))
        if band > 0 or low > 100:
            assert abs(int(changed.argmax()) - band) <= (1 if kind == "ast" else 0), (band, changed)


@each
def test_a_burst_is_in_its_time(kind: str) -> None:
    encoder = small(kind, layer=0)
    quiet = 1e-3 * np.random.default_rng(0).standard_normal(2 * RATE)
    burst = quiet.copy()
    burst[RATE : RATE + 800] *= 100
    plain, heard = (token_map(encoder, torch.from_numpy(x.astype(np.float32))) for x in (quiet, burst))
    changed = (heard.tokens - plain.tokens).square().mean((1, 2))
    assert abs(float(heard.seconds[changed.argmax()]) - 1.025) < 0.12


# Networks ---------------------------------------------------------------------------------------------------


def layer_norm(x: torch.Tensor, state: Mapping[str, torch.Tensor], name: str, eps: float = 1e-6) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def linear(x: torch.Tensor, state: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def gelu(x: torch.Tensor) -> torch.Tensor:
    return x * 0.5 * (1 + torch.erf(x / 2**0.5))


def slow_attention(x: torch.Tensor, state: Mapping[str, torch.Tensor], name: str, heads: int) -> torch.Tensor:
    """Attention with one matrix for query, key and value, one head at a time."""
    query, key, value = linear(x, state, f"{name}.qkv").chunk(3, 1)
    size = x.shape[1] // heads
    mixed = []
    for head in range(heads):
        own = slice(head * size, (head + 1) * size)
        mixed.append((query[:, own] @ key[:, own].T / size**0.5).softmax(1) @ value[:, own])
    return linear(torch.cat(mixed, 1), state, f"{name}.proj")


def slow_patches(window: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Tokens of 16 by 16 squares, shape (n_times, n_bands, width); the kernel as (width, frames, mel bands)."""
    n_times, n_bands = len(window) // 16, window.shape[1] // 16
    found = torch.empty(n_times, n_bands, len(weight))
    for t in range(n_times):
        for b in range(n_bands):
            square = window[16 * t : 16 * t + 16, 16 * b : 16 * b + 16]
            found[t, b] = (weight * square).sum((1, 2))
    return found if bias is None else found + bias


def test_ced_against_a_slow_reference() -> None:
    ced = small("ced")
    state = ced.state_dict()
    window = ced.spectrogram(wave(1.3))
    # The published image is (mel bands, frames).
    x = slow_patches(window, state["patch_embed.proj.weight"][:, 0].mT, state["patch_embed.proj.bias"])
    n_times, n_bands = x.shape[:2]
    x = x + state["time_pos_embed"][0, :, 0, :n_times].T[:, None] + state["freq_pos_embed"][0, :, :, 0].T
    x = x.flatten(0, 1)
    for n in range(2):
        x = x + slow_attention(layer_norm(x, state, f"blocks.{n}.norm1"), state, f"blocks.{n}.attn", 4)
        inner = gelu(linear(layer_norm(x, state, f"blocks.{n}.norm2"), state, f"blocks.{n}.mlp.fc1"))
        x = x + linear(inner, state, f"blocks.{n}.mlp.fc2")
    np.testing.assert_allclose(ced.tokens(window), x.view(n_times, n_bands, -1), atol=2e-5)


def test_eat_against_a_slow_reference() -> None:
    eat = small("eat")
    state = eat.state_dict()
    window = eat.filled(eat.spectrogram(wave(1.3)), 160)
    # The published image is (frames, mel bands).
    x = slow_patches(window, state["local_encoder.proj.weight"][:, 0], state["local_encoder.proj.bias"])
    n_times, n_bands = x.shape[:2]
    x = torch.cat([state["extra_tokens"][0], x.flatten(0, 1) + state["positions"][0]])
    x = layer_norm(x, state, "pre_norm")
    for n in range(2):
        x = layer_norm(x + slow_attention(x, state, f"blocks.{n}.attn", 4), state, f"blocks.{n}.norm1")
        inner = linear(gelu(linear(x, state, f"blocks.{n}.mlp.fc1")), state, f"blocks.{n}.mlp.fc2")
        x = layer_norm(x + inner, state, f"blocks.{n}.norm2")
    np.testing.assert_allclose(eat.tokens(window), x[1:].view(n_times, n_bands, -1), atol=2e-5)


@needs_transformers
def test_beats_attention_is_that_of_wavlm() -> None:
    """From which it was taken, and which the package has, but that the gates look at what the query is made of.

    Queries are therefore what they are made of here.
    """
    from transformers.models.wavlm.modeling_wavlm import WavLMAttention

    torch.manual_seed(5)
    theirs = WavLMAttention(32, 4, num_buckets=32, max_distance=80, has_relative_position_bias=True).eval()
    ours = _GatedAttention(32, 4)
    theirs.gru_rel_pos_const.data.normal_()
    theirs.q_proj.weight.data = torch.eye(32)
    theirs.q_proj.bias.data.zero_()
    names = {"gru_rel_pos_linear": "grep_linear", "gru_rel_pos_const": "grep_a"}
    state = {re.sub(r"^gru_rel_pos_\w+", lambda m: names[m[0]], k): v for k, v in theirs.state_dict().items()}
    bias = state.pop("rel_attn_embed.weight")
    ours.load_state_dict(state)
    tokens = torch.randn(90, 32)
    place = torch.arange(90)
    classes = distance_classes(place[None] - place[:, None], 32, 80)
    with torch.no_grad():
        wanted = theirs(tokens[None])[0][0]
        np.testing.assert_allclose(ours(tokens, bias[classes].permute(2, 0, 1)), wanted, atol=2e-5)


def test_beats_around_its_attention() -> None:
    """All but the attention, by hand: patches, projection, places, norms after sums with more of what came in."""
    beats = small("beats")
    state = beats.state_dict()
    window = beats.spectrogram(wave(1.3))
    x = slow_patches(window, state["patch_embedding.weight"][:, 0], None)
    n_times, n_bands = x.shape[:2]
    x = linear(layer_norm(x.flatten(0, 1), state, "layer_norm", 1e-5), state, "post_extract_proj")
    padded = torch.nn.functional.pad(x.T, (4, 4))
    kernel, places = state["encoder.pos_conv.weight"], torch.empty_like(x)
    for t in range(len(x)):
        for out in range(32):
            group = slice(out // 8 * 8, out // 8 * 8 + 8)
            places[t, out] = (padded[group, t : t + 8] * kernel[out]).sum() + state["encoder.pos_conv.bias"][out]
    x = layer_norm(x + gelu(places), state, "encoder.layer_norm", 1e-5)
    place = torch.arange(len(x))
    classes = distance_classes(place[None] - place[:, None], 32, 80)
    bias = state["relative_attention_bias.weight"][classes].permute(2, 0, 1)
    for n, block in enumerate(beats.encoder.layers):  # type: ignore[union-attr, arg-type]
        where, more = f"encoder.layers.{n}", 24**0.25
        x = layer_norm(more * x + block.self_attn(x, bias), state, f"{where}.self_attn_layer_norm", 1e-5)
        inner = linear(gelu(linear(x, state, f"{where}.fc1")), state, f"{where}.fc2")
        x = layer_norm(more * x + inner, state, f"{where}.final_layer_norm", 1e-5)
    np.testing.assert_allclose(beats.tokens(window), x.view(n_times, n_bands, -1), atol=5e-5)


def test_classes_of_distance() -> None:
    far = torch.tensor([-2000, -800, -80, -79, -1, 0, 1, 79, 80, 81, 799, 800, 2000])
    found = distance_classes(far, 320, 800).tolist()
    assert found[:6] == [159, 159, 80, 79, 1, 0]
    assert found[6:9] == [161, 239, 240]
    assert found[-1] == found[-2] == 319
    assert found[6:] == sorted(found[6:])


@needs_transformers
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_ast_is_the_packages(layer: int) -> None:
    from transformers import ASTConfig, ASTModel

    whole, part = small("ast"), small("ast", layer)
    part.load_state_dict({name: whole.state_dict()[name] for name in part.state_dict()})
    config = ASTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, max_length=156)
    theirs = ASTModel(config).eval()
    theirs.load_state_dict({name.removeprefix("model."): tensor for name, tensor in whole.state_dict().items()})
    window = whole.spectrogram(wave(1.6))[:156]
    with torch.no_grad():
        wanted = theirs(window[None], output_hidden_states=True).hidden_states[layer][0, 2:]
    ours = part.tokens(window)
    assert ours.shape == (15, 12, 32)
    np.testing.assert_allclose(ours.transpose(0, 1).flatten(0, 1), wanted, atol=1e-6)


@pytest.mark.parametrize("installed", [None, SimpleNamespace(__version__="4.57.6")])
def test_without_transformers_ast_says_what_to_install(installed: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", installed)
    with pytest.raises(AuscultError, match=r'pip install "auscult\[encoders\]"'):
        KINDS["ast"](KINDS["ast"].sizes_class(), 0)


# Files ------------------------------------------------------------------------------------------------------


@each
def test_a_file_brings_the_same_tokens_back(kind: str, tmp_path: Path) -> None:
    whole = small(kind)
    file = encoderfile.describe(saved(kind, tmp_path))
    assert (file.kind, file.sizes) == (kind, whole.sizes)
    assert len(file.sha256) == 64
    np.testing.assert_array_equal(token_map(encoderfile.load(file, 2), wave()).tokens, token_map(whole, wave()).tokens)
    half = encoderfile.load(file, 1)
    assert sum(p.numel() for p in half.parameters()) < sum(p.numel() for p in whole.parameters())
    if kind != "ast":  # the others have their blocks in reach
        assert not np.array_equal(token_map(half, wave()).tokens, token_map(whole, wave()).tokens)


def damage() -> list[tuple[str, Callable[[Path], object], str]]:
    def without_sizes(path: Path) -> None:
        save_file({"x": torch.zeros(2)}, path, {"auscult_encoder": json.dumps({"format_version": 1, "kind": "ced"})})

    def later(path: Path) -> None:
        save_file({"x": torch.zeros(2)}, path, {"auscult_encoder": json.dumps({"format_version": 9})})

    return [
        ("gone", lambda path: path.unlink(), "there is no such encoder file"),
        ("short", lambda path: path.write_bytes(path.read_bytes()[:500]), "damaged"),
        ("no encoder", lambda path: save_file({"x": torch.zeros(2)}, path), "is no encoder file of auscult"),
        ("no sizes", without_sizes, "damaged"),
        ("later", later, "later auscult"),
    ]


@pytest.mark.parametrize(("name", "harm", "reason"), damage(), ids=lambda x: x if isinstance(x, str) else "")
def test_a_damaged_file_is_refused(name: str, harm: Callable[[Path], object], reason: str, tmp_path: Path) -> None:
    path = saved("ced", tmp_path)
    harm(path)
    with pytest.raises(AuscultError, match=rf"ced\.safetensors.*{reason}"):
        encoderfile.describe(path)


def test_tensors_of_another_size_are_refused_when_read(tmp_path: Path) -> None:
    ced = small("ced")
    header = {"format_version": 1, "kind": "ced", "sizes": ced.sizes.model_dump()}
    tensors = {name: tensor.clone() for name, tensor in ced.state_dict().items() if name != "blocks.1.norm1.bias"}
    tensors["freq_pos_embed"] = torch.zeros(1, 32, 5, 1)
    save_file(tensors, tmp_path / "x.safetensors", {"auscult_encoder": json.dumps(header)})
    with pytest.raises(AuscultError, match=r"missing: blocks.1.norm1.bias; of another shape: freq_pos_embed"):
        encoderfile.load(encoderfile.describe(tmp_path / "x.safetensors"), 1)


def test_sizes_that_make_no_sense_are_refused() -> None:
    for wrong in ({"width": 30, "heads": 4}, {"patch": 65}, {"depth": 0}):
        with pytest.raises(ValueError, match=r"heads|larger|greater"):
            KINDS["ced"].sizes_class(**wrong)


# Published checkpoints --------------------------------------------------------------------------------------


def published(kind: str) -> dict[str, torch.Tensor]:
    """A small encoder's tensors by the names and in the shapes in which checkpoints have them, classifier included."""
    state = dict(small(kind).state_dict())
    width = 32
    if kind == "ced":
        state = {re.sub(r"^init_bn\.", "init_bn.1.", name): tensor for name, tensor in state.items()}
        extra = {"norm": width, "outputlayer.0": width}
        state |= {f"{name}.weight": torch.ones(size) for name, size in extra.items()}
        state["outputlayer.1.weight"] = torch.zeros(527, width)
    if kind == "eat":
        image = "modality_encoders.IMAGE"
        old = {"pre_norm": f"{image}.context_encoder.norm", "positions": f"{image}.fixed_positional_encoder.positions"}
        old |= {name: f"{image}.{name}" for name in ("local_encoder", "extra_tokens")}
        state = {re.sub(rf"^({'|'.join(old)})", lambda m: old[m[1]], name): t for name, t in state.items()}
        state[f"{image}.decoder.proj.weight"] = torch.zeros(3, 3)
    if kind == "beats":
        bias = state.pop("relative_attention_bias.weight")
        state |= {f"encoder.layers.{n}.self_attn.relative_attention_bias.weight": bias for n in range(2)}
        kernel = state.pop("encoder.pos_conv.weight")
        state["encoder.pos_conv.0.bias"] = state.pop("encoder.pos_conv.bias")
        state["encoder.pos_conv.0.weight_g"] = kernel.square().sum((0, 1), keepdim=True).sqrt()
        state["encoder.pos_conv.0.weight_v"] = 3 * kernel
        state |= {"predictor.weight": torch.zeros(527, width), "predictor.bias": torch.zeros(527)}
    if kind == "ast":
        old = {
            r"^model\.layers\.": "encoder.layer.",
            r"^model\.": "",
            r"attention\.(q|k|v)_proj": r"attention.attention.\1",
            "attention.o_proj": "attention.output.dense",
            "mlp.fc1": "intermediate.dense",
            "mlp.fc2": "output.dense",
            r"attention\.attention\.q\.": "attention.attention.query.",
            r"attention\.attention\.k\.": "attention.attention.key.",
            r"attention\.attention\.v\.": "attention.attention.value.",
        }
        for new, before in old.items():
            state = {re.sub(new, before, name): tensor for name, tensor in state.items()}
        state = {f"audio_spectrogram_transformer.{name}": tensor for name, tensor in state.items()}
        state["classifier.dense.weight"] = torch.zeros(527, width)
    return state


CFG = {"max_distance": 80, "deep_norm": True, "layer_norm_first": False, "encoder_layers": 2, "activation_fn": "gelu"}


@each
@pytest.mark.parametrize("as_saved", ["pickle", "wrapped", "safetensors"])
def test_a_published_checkpoint_is_converted(kind: str, as_saved: str, tmp_path: Path) -> None:
    state = published(kind)
    source = tmp_path / ("model.safetensors" if as_saved == "safetensors" else "model.pt")
    if as_saved == "safetensors":
        save_file({name: tensor.clone() for name, tensor in state.items()}, source)
    else:
        torch.save({"cfg": CFG, "model": state} if as_saved == "wrapped" else state, source)
    file = convert(source, tmp_path / "made.safetensors", kind, heads=None if kind == "beats" else 4)
    assert file.sizes.depth == 2
    ours, theirs = encoderfile.load(file, 2), small(kind)
    if kind == "beats":
        assert file.sizes.model_dump()["farthest"] == (80 if as_saved == "wrapped" else 800)
        if as_saved != "wrapped":
            return  # nothing in the tensors says how far distances are told apart
        # The multiple of what comes in depends on the depth; here it is that of two blocks.
        for block in theirs.encoder.layers:  # type: ignore[union-attr]
            block.residual = 4**0.25  # type: ignore[union-attr, assignment]
    np.testing.assert_allclose(
        token_map(ours, wave(1.5)).tokens, token_map(theirs, wave(1.5)).tokens, rtol=1e-4, atol=1e-5
    )


def test_the_other_spelling_of_a_weight_norm(tmp_path: Path) -> None:
    state = published("beats")
    for number, letter in enumerate("gv"):
        name = f"encoder.pos_conv.0.parametrizations.weight.original{number}"
        state[name] = state.pop(f"encoder.pos_conv.0.weight_{letter}")
    torch.save({"model": state}, tmp_path / "b.pt")
    made = encoderfile.load(convert(tmp_path / "b.pt", tmp_path / "b.safetensors", "beats"), 0)
    kernel = small("beats").state_dict()["encoder.pos_conv.weight"]
    np.testing.assert_allclose(made.state_dict()["encoder.pos_conv.weight"], kernel, rtol=1e-5)


def test_eats_surplus_positions_are_left_out(tmp_path: Path) -> None:
    sizes = KINDS["eat"].sizes_class(width=32, depth=1, heads=4, feed_forward=48)
    state = dict(KINDS["eat"](sizes, 1).state_dict())
    many = torch.randn(1, 6144, 32)
    state["fixed_positional_encoder.positions"] = many
    del state["positions"]
    torch.save({f"model.{name}": tensor for name, tensor in state.items()}, tmp_path / "e.pt")
    file = convert(tmp_path / "e.pt", tmp_path / "e.safetensors", "eat", heads=4)
    assert file.sizes == sizes
    np.testing.assert_array_equal(encoderfile.load(file, 0).state_dict()["positions"], many[:, :512])


class Harm:
    """What a malicious checkpoint does when it is opened."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.write_text, (self.file, "done"))


def test_a_malicious_checkpoint_is_refused_and_does_nothing(tmp_path: Path) -> None:
    for name, save in (("zip.pt", torch.save), ("bare.pt", lambda x, p: p.write_bytes(pickle.dumps(x)))):
        done = tmp_path / "done"
        save({"model": published("ced"), "cfg": Harm(done)}, tmp_path / name)
        with pytest.raises(AuscultError, match=rf"{name}.*could run code; not opened"):
            convert(tmp_path / name, tmp_path / "made.safetensors", "ced")
        assert not done.exists()
        assert not (tmp_path / "made.safetensors").exists()


def wrongs() -> list[tuple[str, Callable[[dict[str, torch.Tensor]], object], str]]:
    return [
        ("missing", lambda state: state.pop("blocks.0.norm2.bias"), "missing: blocks.0.norm2.bias —"),
        ("no patches", lambda state: state.pop("patch_embed.proj.weight"), "missing: patch_embed.proj.weight"),
        ("unexpected", lambda state: state.update(gate=torch.zeros(2)), "unexpected: gate —"),
        ("shape", lambda state: state.update({"blocks.0.norm1.bias": torch.zeros(3)}), r"norm1.bias \(3,\) instead of"),
        ("flat", lambda state: state.update({"patch_embed.proj.weight": torch.zeros(32)}), "damaged|shapes of ced"),
        ("nothing", lambda state: state.clear(), "no tensors"),
    ]


@pytest.mark.parametrize(("name", "harm", "reason"), wrongs(), ids=lambda x: x if isinstance(x, str) else "")
def test_what_is_wrong_with_a_checkpoint_is_named(
    name: str, harm: Callable[[dict[str, torch.Tensor]], object], reason: str, tmp_path: Path
) -> None:
    state = published("ced")
    harm(state)
    torch.save(state, tmp_path / "c.pt")
    with pytest.raises(AuscultError, match=reason) as told:
        convert(tmp_path / "c.pt", tmp_path / "made.safetensors", "ced", heads=4)
    assert "\n" not in str(told.value)
    assert not (tmp_path / "made.safetensors").exists()


def test_what_cannot_be_converted(tmp_path: Path) -> None:
    def save(content: object) -> Path:
        torch.save(content, tmp_path / "x.pt")
        return tmp_path / "x.pt"

    made = tmp_path / "made.safetensors"
    ced = save(published("ced"))
    with pytest.raises(AuscultError, match="there is no encoder 'clap'"):
        convert(ced, made, "clap")
    with pytest.raises(AuscultError, match="--heads N"):
        convert(ced, made, "ced")
    with pytest.raises(AuscultError, match="these are not the tensors of eat"):
        convert(ced, made, "eat", heads=4)
    with pytest.raises(AuscultError, match="no such checkpoint"):
        convert(tmp_path / "gone.pt", made, "ced")
    with pytest.raises(AuscultError, match="holds no tensors by name"):
        convert(save([1, 2]), made, "ced")
    with pytest.raises(AuscultError, match="of another make"):
        convert(save({"cfg": {"layer_norm_first": True}, "model": published("beats")}), made, "beats")
    for name, content in (("cut.pt", ced.read_bytes()[:300]), ("cut.safetensors", b"123"), ("text.pt", b"hello")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(AuscultError, match="damaged"):
            convert(tmp_path / name, made, "ced")
    with pytest.raises(AuscultError, match="could run code"):
        convert(save({"args": SimpleNamespace(width=2), "model": published("ced")}), made, "ced")
    assert not made.exists()


def test_mel_centres_rise() -> None:
    centres = mel_centres(128)
    assert 20 < centres[0] < 60
    assert (np.diff(centres) > 0).all()
    assert centres[-1] < 8000
