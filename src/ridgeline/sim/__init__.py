"""F4: from stage times to a step: pipeline schedules, event timeline, traces."""
