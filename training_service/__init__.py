"""An agent that carries out fine-tuning tasks which other agents delegate to it over the bus.

Where what is, from the bus down to the numbers:

- on the bus: agent, follow, message, oversight, shelf, shelf_message
- the OpenAI face: openai, openai_files, openai_jobs, openai_routes, openai_shapes, openai_text
- between the service and its child: worker, process, pipe, event, request, merge_order, owner, reference
- the child: warm_start, child, desk, fault, share, slots, sweep
- runs: roster, turns, run, bench, milestones, stopping, usage, record, history, scalars
- quotes: quote, rank_quote, memory
- data: row, encoder, data, encodings, audit, variant
- steps: steps, plan, batch, packing, by_row, loss, preference, recompute, evaluate
- models: model, lora, fused, tiny
- texts: texts, text_batch, text, choice, key_values
- what is written: artifact, tensors, checkpoint, result, card, adapters, merge, aside
- several processes: team, group, rank, ranks
- the errors: errors; and the newsroom's archive: sections
"""
