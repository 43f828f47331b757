module example.com/tunnel-agent

go 1.24
