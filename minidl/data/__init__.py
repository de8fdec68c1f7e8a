"""From a name or a file to arrays, and from arrays to batches.

The way of a CSV file: `datasets` calls `files.file`, which reads a `Table` (`readers`, `textfiles`,
`cells`), takes its target (`targets`), tells what its columns mean (`kinds`, `schema`), and makes
numbers of them: a `Dataset`. `splits` cuts it into parts, `preprocessing` is fitted on the training
part, and `batches` hands out rows.
"""
