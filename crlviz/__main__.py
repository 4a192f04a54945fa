from crlviz.cli import main

main()
