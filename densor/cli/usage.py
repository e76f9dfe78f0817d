"""The help text of `densor`; a test holds it against the parser."""

HELP = """usage: densor [OPTIONS] [FILE...]
       densor COMMAND ...

Lossless compression of neural-network weights and data.

Compresses each FILE to FILE.densor and keeps FILE. FILE - is stdin, also where
no FILE is given; what comes from stdin goes to stdout.

options:
  -d, --decompress     restore FILE.densor to FILE
  -t, --test           decode and verify, write nothing
  -l, --list           list sizes of archives
  -c, --stdout         write to stdout
  -o FILE              write to FILE
  -f, --force          overwrite files; write to a terminal
  -k, --keep           keep FILE (default)
  --rm                 remove FILE after a verified write
  --sync               wait until what was written is on the disk
  --verify             decode what was written and compare
  --no-verify          do not, even with --llm, where that is usual
  -r                   the files in folders too, each by itself
  -T, --threads #      threads, 0 for all processors (default 0)
  -1 ... -9            level, from fastest to smallest (default -3)
  --dtype TYPE         take all bytes as numbers of this type, such as bf16
  --audio RATE:CHANNELS:TYPE
                       take all bytes as sound, such as 44100:2:s16
  --image WxHxC:TYPE   take all bytes as images of this size, such as 640x480x3:u8
  --text               code text and other bytes as -9 does, slow and small
  --tokens             integers and plain files are tokens (docs/tokens.md)
  --table-latents      code tables also under latent classes, and keep the smaller
  --llm MODEL          code text under a language model: smollm2, sample, or a path;
                       with -d and -t: where that model is now
  --image-model MODEL  code images under a model of densor train, each by itself;
                       with -d and -t: where that model is now
  --sha256             store SHA-256 of the original, not XXH3-128
  --gpu-index          store entry points, so that a GPU decodes at once (-1 to -5)
  --recovery PERCENT   add data from which densor repair mends so much damage
  --base FILE          code only what differs from FILE, which -d and -t need too
  --max-size N[K|M|G]  with -d and -t: give up on archives that hold more
  -v, --verbose        say more, such as speed
  -q, --quiet          errors only on stderr
  -V, --version        show the version
  -h, --help           show this text
  --                   what follows are names, even if they begin with -

commands:
  pack OUT.densor PATH...      pack files and folders into one archive
  shards DIR PATH...           pack each file by itself, in parallel, resumable
  list ARCHIVE                 show its entries and tensors
  extract ARCHIVE [NAME...]    restore files and folders
  cat ARCHIVE NAME             write one file or tensor to stdout
  table cat ARCHIVE [NAME]     write columns and rows of a table to stdout
  append ARCHIVE FILE          add a checkpoint, coded against the latest there
  diff A [B]                   show how two checkpoints differ, or those of an archive
  test ARCHIVE...              verify every check in it
  repair ARCHIVE               mend damage by recovery data (--recovery)
  info ARCHIVE                 show how it is coded
  report ARCHIVE               write a page about an archive: sizes by tensor, ratios, codecs
  fit MODEL                    tell whether a model fits into memory, plain or packed
  demo                         pack, restore and compare a real model
  bench FILE                   measure ratio and speed on your own file
  bits FILE                    show how many bits models of text take per byte, per token
  train images SET -o MODEL    learn a model of images of one size, see --image-model
  hf-pack MODEL_DIR OUT_DIR    pack a HuggingFace model so that it still loads
  hf-unpack DIR OUT_DIR        restore its files
  hub plan FOLDER...           find families among models, and pack them as such
  quantize MODEL --size S -o   make a model smaller, with losses
  gpu-check                    compare what a GPU decodes with the CPU, and time it
  doctor                       tell what this machine has, and test the codecs on it
  warm                         compile the kernels now, so that no later run has to
  completion SHELL             write completion of commands for bash, zsh or fish
`densor COMMAND --help` tells more. A file that is called like a command: ./pack

exit codes: 0 all is well, 1 error, 2 wrong usage, 130 interrupted"""
