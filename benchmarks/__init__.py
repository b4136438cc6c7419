"""What `outlap bench` runs: each module measures one thing against what people use today, side by side in one run."""
