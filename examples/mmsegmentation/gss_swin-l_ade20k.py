"""GSS-FT-W at its published size, for ADE20K on GPUs: train.model = this file, schedule = "config".

Chen et al. 2023, and the configs released with it: Swin-L, crops of 512², a batch of 32. DALL·E's
dVAE and Swin's weights are files of yours; the dVAE as models/segmenters/gss/dalle.py says. The
paper trains 160k steps and 40k more of the last stage, which is here the last fifth of all steps.
Without a dVAE leave `autoencoder` out: the embedded one was trained on drawings only.
"""

norm_cfg = dict(type="LN", requires_grad=True)
model = dict(
    type="GSS",
    variant="ft-w",
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        size=(512, 512),
        seg_pad_val=255,
    ),
    backbone=dict(
        type="SwinTransformer",
        pretrain_img_size=384,
        embed_dims=192,
        depths=[2, 2, 18, 2],
        num_heads=[6, 12, 24, 48],
        window_size=12,
        drop_path_rate=0.3,
        norm_cfg=norm_cfg,
        init_cfg=dict(type="Pretrained", checkpoint="swin_large_patch4_window12_384_22k.pth"),
    ),
    decode_head=dict(
        in_channels=[192, 384, 768, 1536],
        channels=384,
        width=512,
        depth=2,
        heads=16,
        num_classes=150,
    ),
    posterior=dict(
        palette="farthest",
        autoencoder=dict(
            type="DalleTokens",
            init_cfg=dict(type="Pretrained", checkpoint="dalle.safetensors"),
        ),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode="whole"),
)
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1.2e-4, betas=(0.9, 0.999), weight_decay=0.01),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type="PolyLR", power=1.0, eta_min=0.0, by_epoch=False, begin=1500, end=200_000),
]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=200_000)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", reduce_zero_label=True),
    dict(type="RandomResize", scale=(2048, 512), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(512, 512), cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(batch_size=4, dataset=dict(pipeline=train_pipeline))
