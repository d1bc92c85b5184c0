"""Trains models/mini, the small text-to-surface base model, on one or two CPU cores.

    python -m training.mini vae         the autoencoder, first
    python -m training.mini latents     draws and encodes pictures, in a process of its own beside the next
    python -m training.mini text        the text encoder, which is to know words before it conditions anything
    python -m training.mini diffusion   UNet, and the text encoder with it
    python -m training.mini export      writes models/mini
    python -m training.mini unpack      the reverse: checkpoints from which `latents` and `diffusion` train further
    python -m training.mini sheet       draws sheet.png with what was exported

Checkpoints are in build/mini; every stage continues from its own, but for `text`, which takes minutes
(`--steps 800`). Steps are seeded by their number.
"""

import argparse
import logging
import os
import sys
from pathlib import Path

# glibc otherwise gives large activations back to the system at every step, which costs most of the time.
_MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "268435456",
    "OMP_WAIT_POLICY": "passive",
}


def main() -> None:
    """Parses the arguments and runs one stage."""
    if any(os.environ.get(name) != value for name, value in _MALLOC.items()):
        os.execve(  # noqa: S606 - the same program again
            sys.executable, [sys.executable, "-m", "training.mini", *sys.argv[1:]], {**os.environ, **_MALLOC}
        )
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["vae", "latents", "text", "diffusion", "export", "unpack", "sheet"])
    parser.add_argument("--folder", type=Path, default=Path("build/mini"), help="checkpoints")
    parser.add_argument(
        "--output", type=Path, default=Path("models/mini"), help="where export writes, and unpack reads"
    )
    parser.add_argument("--steps", type=int, default=6000, help="steps in all, those of earlier runs included")
    parser.add_argument("--samples", type=int, default=16384, help="pictures that `latents` encodes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=1.0, help="of the checkpoint in what `export` writes, see there")
    parser.add_argument("--threads", type=int, default=1, help="more than the free cores is far slower")
    parser.add_argument("--windows", type=float, default=0.85, help="share of `diffusion`'s steps that see windows")
    parser.add_argument("--compile", action="store_true", help="train the diffusion model with torch.compile")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    arguments.folder.mkdir(parents=True, exist_ok=True)

    import torch

    torch.set_num_threads(arguments.threads)
    if arguments.stage == "vae":
        from training.mini_autoencoder import train_autoencoder

        train_autoencoder(arguments.folder, arguments.steps, arguments.seed)
    elif arguments.stage == "latents":
        from training.mini_latents import write_latents

        write_latents(arguments.folder, arguments.samples, arguments.seed)
    elif arguments.stage == "text":
        from training.mini_text import train_text_encoder

        train_text_encoder(arguments.folder, arguments.steps, arguments.seed)
    elif arguments.stage == "diffusion":
        from training.mini_diffusion import train_diffusion

        train_diffusion(
            arguments.folder, arguments.steps, arguments.seed, windows=arguments.windows, compiled=arguments.compile
        )
    elif arguments.stage == "export":
        from training.mini_export import export

        export(arguments.folder, arguments.output, arguments.share)
    elif arguments.stage == "unpack":
        from training.mini_export import unpack

        unpack(arguments.output, arguments.folder)
    else:
        from training.mini_export import draw_sheet

        draw_sheet(arguments.output, arguments.folder / "sheet.png", arguments.seed)


if __name__ == "__main__":
    main()
