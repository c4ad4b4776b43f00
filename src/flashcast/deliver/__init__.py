"""From GO to the last reply: claims, volleys, retries, pacing, and the journal that survives a crash."""
