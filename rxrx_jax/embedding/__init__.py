"""Embedding a dataset as a job: over hosts, resumable, within a budget of records that cannot be read.

Plates are dealt out among the hosts, which work by themselves. In the job's folder are

    job.json                    what makes the embeddings
    plates/000012-HUVEC-01_3.parquet   a finished plate, as `rxrx_jax.base.embeddings` writes it
    parts/000012-row-0256.npz   a row of tiles of all images of a plate that is not finished
    unreadable/000012.json      names of the sites of a plate that were left out
    embeddings.json             the files and their rows, once all are there
    metrics.jsonl               the speed that was measured, and in the end `"done": true`
"""
