module cellward.dev/prober

go 1.26
