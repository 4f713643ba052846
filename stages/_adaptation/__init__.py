"""What starting and merging adapters share: factor algebra, probe texts, reports."""
