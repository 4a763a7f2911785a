# Written by docs/public_names.py from __init__.py.
from amodal.data.batch import Batch as Batch
from amodal.data.collate import Collator as Collator
from amodal.data.decode import decode_image as decode_image
from amodal.data.decode import load_image as load_image
from amodal.data.decode_audio import load_audio as load_audio
from amodal.data.inspection import Inspection as Inspection
from amodal.data.inspection import inspect as inspect
from amodal.data.reader import BatchReader as BatchReader
from amodal.data.record import BrokenRecordError as BrokenRecordError
from amodal.data.record import DataError as DataError
from amodal.data.record import Record as Record
from amodal.data.record import Source as Source
from amodal.data.record import StreamingSource as StreamingSource
from amodal.data.scenes.motion_source import MovingScenesConfig as MovingScenesConfig
from amodal.data.scenes.source import ScenesConfig as ScenesConfig
from amodal.data.sources.coco_captions import CocoCaptionsConfig as CocoCaptionsConfig
from amodal.data.sources.concat import ConcatConfig as ConcatConfig
from amodal.data.sources.folder import FolderConfig as FolderConfig
from amodal.data.sources.huggingface import HuggingFaceConfig as HuggingFaceConfig
from amodal.data.sources.specification import parse_source as parse_source
from amodal.data.sources.table import TableConfig as TableConfig
from amodal.data.sources.visdial import VisDialConfig as VisDialConfig
from amodal.data.sources.vqa import VqaConfig as VqaConfig
from amodal.data.sources.webdataset import WebDatasetConfig as WebDatasetConfig

__all__ = [
    "Batch",
    "BatchReader",
    "BrokenRecordError",
    "CocoCaptionsConfig",
    "Collator",
    "ConcatConfig",
    "DataError",
    "FolderConfig",
    "HuggingFaceConfig",
    "Inspection",
    "MovingScenesConfig",
    "Record",
    "ScenesConfig",
    "Source",
    "StreamingSource",
    "TableConfig",
    "VisDialConfig",
    "VqaConfig",
    "WebDatasetConfig",
    "decode_image",
    "inspect",
    "load_audio",
    "load_image",
    "parse_source",
]
