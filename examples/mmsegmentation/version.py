"""Base config: mmsegmentation's Runner trains on a published version, and validates on it.

    _base_ = ["examples/mmsegmentation/version.py", "segformer_mit-b0.py", "schedule_40k.py"]

`store` is a folder or URL. Without `version` the newest one is read.
"""

custom_imports = dict(imports=["segmint.mmseg"], allow_failed_imports=False)
default_scope = "mmseg"
store = "out/store"
crop_size = (128, 128)
train_pipeline = [
    dict(type="RandomResize", scale=crop_size, ratio_range=(0.75, 1.33), keep_ratio=True),
    dict(type="RandomCrop", crop_size=crop_size),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(type="SegmintDataset", store=store, pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="SegmintDataset",
        store=store,
        pipeline=[dict(type="PackSegInputs")],
        test_mode=True,
    ),
)
val_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
