"""transformers' own image processor, which cannot be built without torchvision: its methods, called on a stand-in that
has torchvision's two operations as torch does them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch.nn import functional as F
from transformers.image_utils import SizeDict
from transformers.models.molmo2.image_processing_molmo2 import Molmo2ImageProcessor as Port

from stts_lightning.config import BackboneConfig, ImageConfig


class StandIn:
    max_crops, overlap_margins, patch_size = Port.max_crops, Port.overlap_margins, Port.patch_size
    pooling_size, size = Port.pooling_size, Port.size
    _build_overlapping_crops = Port._build_overlapping_crops
    _image_batch_to_patches_and_grids = Port._image_batch_to_patches_and_grids
    get_image_grid_and_crops = Port.get_image_grid_and_crops

    def resize(self, image: torch.Tensor, size: SizeDict, resample: Any, antialias: bool) -> torch.Tensor:
        assert resample == Port.resample and not antialias
        return F.interpolate(image, (size.height, size.width), mode="bilinear", align_corners=False)

    def rescale_and_normalize(self, images, do_rescale, factor, do_normalize, mean, std):
        assert do_rescale and do_normalize and mean == std == [0.5, 0.5, 0.5]
        return (images.float() - 127.5) / 127.5  # the factor folded into mean and deviation, as torchvision's backend


def settings_of(backbone: BackboneConfig, image: ImageConfig) -> dict[str, Any]:
    return {
        "max_crops": image.max_crops,
        "overlap_margins": image.overlap_margins,
        "patch_size": backbone.patch_size,
        "pooling_size": [image.window, image.window],
        "size": SizeDict(height=backbone.image_size, width=backbone.image_size),
    }


def preprocess(pictures: list[torch.Tensor], backbone: BackboneConfig, image: ImageConfig) -> dict[str, torch.Tensor]:
    """(H, W, 3) uint8 pictures to what the model takes."""
    return Port._preprocess(
        StandIn(), [picture.permute(2, 0, 1) for picture in pictures], do_resize=True, resample=Port.resample,
        do_rescale=True, rescale_factor=1 / 255, do_normalize=True, image_mean=[0.5] * 3, image_std=[0.5] * 3,
        do_convert_rgb=True, disable_grouping=None, return_tensors="pt", **settings_of(backbone, image),
    )  # fmt: skip


def grid_and_crops(height: int, width: int, backbone: BackboneConfig, image: ImageConfig) -> tuple[list[int], int]:
    return StandIn().get_image_grid_and_crops(height, width, settings_of(backbone, image))


def image_text(grid: tuple[int, int, int, int], image: ImageConfig) -> str:
    """A picture's tokens as transformers' processor writes them."""
    from transformers.models.molmo2.processing_molmo2 import Molmo2Processor

    flags = SimpleNamespace(
        image_use_col_tokens=image.column_tokens,
        use_single_crop_col_tokens=image.low_res_column_tokens,
        use_single_crop_start_token=True,
    )
    return Molmo2Processor.replace_image_token(flags, {"image_grids": [list(grid)]}, 0)
