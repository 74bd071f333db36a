"""Logits that transformers 5.23 and timm 1.0.31 compute of the first of `images`, by checkpoint.

`test_pretrained_parity` computes them anew where these libraries are installed. A number is right
to change only with the values in `foreign_checkpoints`, to what that test then reports.
"""

GOLDEN_LOGITS = {
    "hf:vit": (-0.4845046, -0.1775725, 0.3595272),
    "hf:vit newer": (1.7274705, -0.7345908, -1.0567306),
    "hf:deit": (-0.9136992, 1.4150673, -1.4864154),
    "hf:deit two heads": (-0.1193640, -1.2224658, 2.0131803),
    "hf:resnet basic": (-1.3218865, 0.5493948, 0.7435212),
    "hf:resnet bottleneck": (-1.3120052, 1.5574901, -0.2267080),
    "timm:vit": (0.8089932, -1.9672821, 1.6506817),
    "timm:deit": (-0.6951892, -0.6070589, 1.1952832),
    "timm:resnet basic": (0.7071370, -0.0611653, -0.6181479),
    "timm:resnet bottleneck": (-0.4345455, -1.0895905, -1.0473027),
}
