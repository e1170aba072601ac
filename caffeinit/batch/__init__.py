"""Many models at once: find them in a folder, run one job on each in a process of its own, keep account of it.

zoo        which files below a folder are nets, weights or settings
settings   caffeinit.toml: what a user says about single nets
pairing    which net belongs to which weights, by the shapes in them
beside     what other files of the zoo tell of a net: its mean picture, the size of its pictures
table      the jobs, and how a model becomes the arguments of the single command
fingerprints, tasks   what is to be done for each model, and a digest of all that decides the result
planning   what of that is done already
manifest   what is done already; written so that a kill at any moment loses at most the model in work
server     a process with all packages imported that forks one process per model, with limits; `pool` talks to it
cluster    the same on the machines of a Dask cluster
run        the whole
"""
