"""The fresh video encoder of a SViTT becomes a published BEiT, where its official pretraining starts.

microsoft/beit-base-patch16-224-pt22k-ft22k: JerryYLi/svitt models/model_retrieval_base.py, models/utils.py.
"""

from pathlib import Path

from thesis_lib.models.official import NONE, Report
from thesis_lib.models.sparse_attention import inflate, regrid
from thesis_lib.models.starts import fill, read
from thesis_lib.models.svitt import VideoEncoder

BEIT = "a fine-tuned BEiT in the layout of transformers, as microsoft/beit-base-patch16-224-pt22k-ft22k"
TABLE = "relative_position_bias.relative_position_bias_table"


def start_beit(model: VideoEncoder, path: str | Path) -> Report:
    """Puts a BEiT into the video encoder of a SViTT, in place; the report tells what became of every tensor.

    Its position biases are the same at every distance in time (`inflate`), so features do not depend on the order of
    frames yet; another number of patches gets them by `regrid`. Raises ValueError if the file is unreadable, no BEiT
    or of other sizes.
    """
    tensors = read(path, "encoder.layer.0.lambda_1", BEIT)
    frames, side, _ = model.config.window
    for name in [name for name in tensors if name.endswith(TABLE)]:
        if len(tensors[name]) != (2 * side - 1) ** 2 + 3:
            try:
                tensors[name] = regrid(tensors[name], side)
            except ValueError as error:
                raise ValueError(f"{path}: {name}: {error}: expected {BEIT}") from None
        tensors[name] = inflate(tensors[name], frames)
    return fill(model, tensors, path, "beit", BEIT, NONE, r"^classifier\.|^embeddings\.mask_token$")
