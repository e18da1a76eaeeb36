"""Other video models through the same evaluation, unpruned and as they are: the comparison rows of Table 1.

transformers' processors of these models need torchvision, which is not everywhere, so their arithmetic is here in
torch: the frames are ours (sampler and decoder of `stts_lightning.video`), the chat template is the checkpoint's.
"""
