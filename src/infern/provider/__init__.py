"""The provider agent: the seller pipeline in front of one's own model server."""
