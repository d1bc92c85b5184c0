"""In-distribution defects: LoRA adapters of diffusion models, and the images drawn with them."""
