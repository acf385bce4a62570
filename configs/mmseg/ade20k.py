# ADE20K as MMSegmentation has it, segmented by a memory bank. Images enter as they are: the bank says at
# which size. Search is exact, as in the protocol native of fungi-seg evaluate.
_base_ = [
    __import__("mmseg").__path__[0] + "/.mim/configs/_base_/" + part
    for part in ("datasets/ade20k.py", "default_runtime.py", "schedules/schedule_20k.py")
]
custom_imports = dict(imports=["fungi_seg.integrations.mmseg"])
custom_hooks = [dict(type="UseClasses")]
model = dict(type="FungiSegmentor", bank="memory_banks/ade20k", index=dict(kind="flat"))
test_pipeline = [
    dict(type="LoadImageFromFile", imdecode_backend="pillow"),
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
work_dir = "outputs/mmseg/ade20k"
