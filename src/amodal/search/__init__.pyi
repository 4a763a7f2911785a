# Written by docs/public_names.py from __init__.py.
from amodal.search.ann import AnnIndex as AnnIndex
from amodal.search.description import IndexDescription as IndexDescription
from amodal.search.description import StoreError as StoreError
from amodal.search.embed import EmbeddingModel as EmbeddingModel
from amodal.search.embed import embed_source as embed_source
from amodal.search.indexing import IndexSummary as IndexSummary
from amodal.search.indexing import add_to_index as add_to_index
from amodal.search.match import SearchResult as SearchResult
from amodal.search.match import search_matches as search_matches
from amodal.search.parquet import EmbeddingSummary as EmbeddingSummary
from amodal.search.parquet import write_parquet as write_parquet
from amodal.search.query import named_values as named_values
from amodal.search.query import query_vector as query_vector
from amodal.search.store import Hit as Hit
from amodal.search.store import VectorStore as VectorStore

__all__ = [
    "AnnIndex",
    "EmbeddingModel",
    "EmbeddingSummary",
    "Hit",
    "IndexDescription",
    "IndexSummary",
    "SearchResult",
    "StoreError",
    "VectorStore",
    "add_to_index",
    "embed_source",
    "named_values",
    "query_vector",
    "search_matches",
    "write_parquet",
]
