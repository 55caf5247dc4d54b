"""An agent that carries out fine-tuning tasks which other agents delegate to it over the bus."""
