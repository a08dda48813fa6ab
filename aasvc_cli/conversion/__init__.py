"""From a recording to a converted one: the voice, its statistics, and the plan of what to convert."""
