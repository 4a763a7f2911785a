"""Data: sources of records, and batches of tensors with presence masks."""

from amodal.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "batch": "Batch",
        "collate": "Collator",
        "decode": "decode_image load_image",
        "decode_audio": "load_audio",
        "inspection": "Inspection inspect",
        "reader": "BatchReader",
        "record": "BrokenRecordError DataError Record Source StreamingSource",
        "scenes.motion_source": "MovingScenesConfig",
        "scenes.source": "ScenesConfig",
        "sources.coco_captions": "CocoCaptionsConfig",
        "sources.concat": "ConcatConfig",
        "sources.folder": "FolderConfig",
        "sources.huggingface": "HuggingFaceConfig",
        "sources.specification": "parse_source",
        "sources.table": "TableConfig",
        "sources.visdial": "VisDialConfig",
        "sources.vqa": "VqaConfig",
        "sources.webdataset": "WebDatasetConfig",
    },
)
