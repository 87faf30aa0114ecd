"""What happened: sessions, impressions and events, in MongoDB. Imports neither torch nor qdrant_client."""
