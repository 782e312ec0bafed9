"""Tasks of the Language Model Evaluation Harness (EleutherAI/lm-evaluation-harness, docs/new_task_guide.md): its YAML files, with
data of one's own or of a hub, become items here. What they compute in Python is not run."""
