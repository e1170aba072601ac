"""The methods: which factors a net's channels and units are to get. Each plans, on what was measured; none writes."""
