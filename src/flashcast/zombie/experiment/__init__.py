"""The proof by experiment: one small real service, one herd, once without and once with zombie mode.

Five processes on this machine, real sockets, real time: the service (HTTP, a pool of limited capacity, SQLite), its
monitoring, a web server for the document that has nothing to do with either, the herd of simulated apps, and the
conductor, which presses GO and in which the controller watches. The apps' client and the controller with its rules and
signed documents are those for production. Nothing is simulated but people.

    parameters   every number of it, and why
    plan         who opens when and asks for what: the same in both runs, from one seed
    wire         as much HTTP as it takes
    service      the service                        monitoring        what it tells, by Prometheus's API
    document_server   the document's web server     control           the controller, and the launch's shield
    app          one app, naive or with the client  herd              all of them, and their log
    rules.toml   what the controller decides by     conductor         one run, from start to end
    measure      what the log says                  show              as a picture, as text, as JSON
"""
