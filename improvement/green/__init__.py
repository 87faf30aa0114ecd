"""Green builds: a collection filled beside the serving one, gated, promoted, and followed by every write."""
