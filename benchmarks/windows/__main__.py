from benchmarks.windows import main

main()
