"""What starting and merging adapters share: probe texts, reports, the checks of both."""
