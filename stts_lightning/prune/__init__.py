"""The algorithm, free of any host model: torch only, flat rows, windows and segment ids.

Shape letters, the same in the whole package:
    T  frames, of all videos of a batch one after the other     F  frames of one video
    N  patches of a frame          W  windows of a frame        M  windows of the batch, T * W
    P  patches of a window, w * w  K  kept windows              R  packed rows
    D  channels                    B  prompts                   L  tokens of a prompt
"""
