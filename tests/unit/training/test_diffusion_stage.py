"""The mini base model's UNet, trained for a few steps on a few made-up latents."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from training import mini_diffusion
from training.mini_autoencoder import build_autoencoder
from training.mini_data import draw_random, training_caption
from training.mini_diffusion import LatentPool, train_diffusion
from training.mini_export import export, unpack
from training.mini_text import TEXT_ENCODER, build_text_encoder, open_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An autoencoder, and one chunk of latents as `mini_latents.write_latents` lays it out (the latents are noise)."""
    build_autoencoder().save_pretrained(tmp_path / "vae")
    torch.save(build_text_encoder(open_tokenizer(tmp_path / "tokenizer")).state_dict(), tmp_path / TEXT_ENCODER)
    rng = np.random.default_rng(0)
    (tmp_path / "latents").mkdir()
    np.savez(
        tmp_path / "latents/0000.npz",
        latents=rng.normal(size=(16, 4, 32, 32)).astype(np.float16),
        masked=rng.normal(size=(16, 4, 32, 32)).astype(np.float16),
        mask=np.ones((16, 32, 32), np.uint8),
        defect=(rng.random((16, 32, 32)) < 0.01).astype(np.uint8),
        captions=np.array(json.dumps([training_caption(rng, draw_random(rng, 16)) for _ in range(16)])),
    )
    return tmp_path


def test_a_training_that_was_interrupted_goes_on_as_if_it_had_not_been(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mini_diffusion, "_WINDOW_BATCH", 2)
    monkeypatch.setattr(mini_diffusion, "_FULL_BATCH", 1)
    # The rate depends on the number of steps in all, which is how the first training is stopped early here.
    monkeypatch.setattr(mini_diffusion, "learning_rate", lambda _step, _steps, peak: peak)
    checkpoint = folder / "diffusion.pt"
    train_diffusion(folder, 2, 0, windows=0.85)
    shutil.copy(checkpoint, folder / "interrupted.pt")
    checkpoint.unlink()
    train_diffusion(folder, 3, 0, windows=0.85)
    whole = torch.load(checkpoint)
    shutil.copy(folder / "interrupted.pt", checkpoint)
    train_diffusion(folder, 3, 0, windows=0.85)
    resumed = torch.load(checkpoint)
    assert whole["step"] == resumed["step"] == 3
    for part in ("model", "average"):
        assert all(torch.equal(value, resumed[part][name]) for name, value in whole[part].items())
    learnt = {
        name.split(".")[0]
        for name, value in torch.load(folder / "interrupted.pt")["model"].items()
        if not torch.equal(value, resumed["model"][name])
    }
    assert learnt == {"unet", "text_encoder"}
    train_diffusion(folder, 7, 0, windows=0.85)  # the seventh is the first of whole pictures
    assert all(torch.isfinite(value).all() for value in torch.load(checkpoint)["average"].values())


def test_what_is_learnt_last_is_taken_more_often(tmp_path: Path) -> None:
    captions = ["wood with a crack", "dented wood", "wood with a chip", "brushed metal with a hole", "wood", "pit"]
    defect = np.ones((6, 32, 32), np.uint8)
    defect[4] = 0  # a good part, whatever its caption says
    images = np.arange(6, dtype=np.float16)[:, None, None, None] * np.ones((1, 4, 32, 32), np.float16)
    np.savez(
        tmp_path / "0000.npz", latents=images, masked=images, mask=defect, defect=defect,
        captions=np.array(json.dumps(captions)),
    )  # fmt: skip
    pool = LatentPool(tmp_path, open_tokenizer(tmp_path / "tokenizer"), 1.0)
    batch = pool.batch(np.random.default_rng(0), 7000, 4)
    shares = torch.bincount(batch["latents"][:, 0, 0, 0].long(), minlength=6) / 7000
    assert shares.tolist() == pytest.approx([weight / 24 for weight in (1, 5, 8, 5, 4, 1)], abs=0.02)


def test_what_was_exported_can_be_trained_further(folder: Path, tmp_path: Path) -> None:
    train_diffusion(folder, 1, 0, windows=1.0)
    before = torch.load(folder / "diffusion.pt")
    export(folder, tmp_path / "exported")
    with pytest.raises(FileExistsError, match="move it away"):
        unpack(tmp_path / "exported", folder)
    further = tmp_path / "further"
    further.mkdir()
    unpack(tmp_path / "exported", further)
    shutil.copytree(folder / "latents", further / "latents")
    unpacked = torch.load(further / "diffusion.pt")
    assert unpacked["step"] == 0
    for name, value in before["average"].items():
        assert torch.equal(unpacked["model"][name], value.half().float())
    train_diffusion(further, 1, 0, windows=1.0)
    trained = torch.load(further / "diffusion.pt")
    assert trained["step"] == 1
    export(further, tmp_path / "exported", share=0.25)
    (tmp_path / "read").mkdir()
    unpack(tmp_path / "exported", tmp_path / "read")
    for name, value in torch.load(tmp_path / "read/diffusion.pt")["model"].items():
        expected = 0.75 * unpacked["model"][name] + 0.25 * trained["average"][name]
        assert torch.allclose(value, expected, atol=1e-3, rtol=1e-3)
