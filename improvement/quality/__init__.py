"""Quality: is learning still doing good? Audits, drift, alerts, and the brake."""
