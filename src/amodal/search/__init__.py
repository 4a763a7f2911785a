"""Search: embedding of sources, the vector store and nearest-neighbour indexes."""

from amodal.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "ann": "AnnIndex",
        "description": "IndexDescription StoreError",
        "embed": "EmbeddingModel embed_source",
        "indexing": "IndexSummary add_to_index",
        "match": "SearchResult search_matches",
        "parquet": "EmbeddingSummary write_parquet",
        "query": "named_values query_vector",
        "store": "Hit VectorStore",
    },
)
